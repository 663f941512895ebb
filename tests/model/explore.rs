//! Explores the whole space of a budget, or looks for the shortest way to a broken promise.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries};

use super::counts::{counted, listed, listed_scenario};
use super::*;

impl Protocol {
    /// Every state within the budget keeps every promise.
    pub(super) fn holds(self) {
        if listed("every promise", &self) {
            return;
        }
        let began = Instant::now();
        let checker = self.checker().threads(2).spawn_bfs().join();
        let (states, depth, seconds) =
            (checker.unique_state_count(), checker.max_depth(), began.elapsed().as_secs_f64());
        println!("{}: {states} unique states, depth {depth}, {seconds:.1} s: {self:?}", scenario());
        for property in self.properties() {
            let found = checker.discovery(property.name).map(|path| (path.last_state().clone(), path.into_actions()));
            match (property.expectation, found) {
                (Expectation::Sometimes, None) => panic!("never seen: {}", property.name),
                (Expectation::Always, Some((last, path))) => panic!("broken: {}: {path:#?}\n{last:#?}", property.name),
                _ => {}
            }
        }
        counted(&scenario(), "every promise", &self, states);
    }

    /// Every state within the budget keeps this promise.
    pub(super) fn keeps(self, promise: &'static str) {
        if listed(promise, &self) {
            return;
        }
        let found = HasDiscoveries::AnyOf([promise].into());
        let checker = self.checker().threads(2).finish_when(found).spawn_bfs().join();
        let path = checker.discovery(promise).map(|path| path.into_actions());
        let states = checker.unique_state_count();
        println!("{}: {states} unique states: {self:?}", scenario());
        assert!(path.is_none(), "broken: {promise}: {path:?}");
        counted(&scenario(), promise, &self, states);
    }

    /// From every state within the budget an end can be reached.
    pub(super) fn always_may_end(self) {
        if listed("an end", &self) {
            return;
        }
        let began = Instant::now();
        let graph = Graph::of(&self);
        let blocked = graph.without_end();
        println!(
            "{}: of {} states all but {} may come to an end, {:.1} s: {self:?}",
            scenario(),
            graph.ends.len(),
            blocked.len(),
            began.elapsed().as_secs_f64()
        );
        assert!(graph.ends.contains(&true), "there is no end");
        assert!(blocked.is_empty(), "no end can be reached any more");
        counted(&scenario(), "an end", &self, graph.ends.len());
    }

    /// The shortest way to a broken promise.
    pub(super) fn breaks(self, promise: &'static str) {
        if listed_scenario().is_some() {
            return;
        }
        let began = Instant::now();
        let found = HasDiscoveries::AnyOf([promise].into());
        let at_depth = |depth| {
            let checker =
                self.checker().target_max_depth(depth).threads(2).finish_when(found.clone()).spawn_bfs().join();
            Some((checker.unique_state_count(), checker.discovery(promise)?))
        };
        // Depths that grow by a few: the way is nearly the shortest, and little is explored twice.
        let shortest = (4..60).step_by(4).find_map(at_depth);
        let (states, path) = shortest.unwrap_or_else(|| panic!("{:?} goes unnoticed", self.mutant));
        let seconds = began.elapsed().as_secs_f64();
        let path = path.into_actions();
        println!(
            "without a rule: {self:?}: not \"{promise}\", in {} steps, {states} states, {seconds:.1} s",
            path.len()
        );
        println!("    {path:?}");
    }
}

/// Whether there is time for larger budgets.
pub(super) fn soak() -> bool {
    std::env::var_os("MODEL_SOAK").is_some() || listed_scenario().is_some()
}

/// The name of the test.
pub(super) fn scenario() -> String {
    if let Some(name) = listed_scenario() {
        return name.into();
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default();
    name.rsplit("::").next().unwrap_or(name).to_string()
}

/// What leads where.
#[derive(Default)]
struct Graph {
    /// By state: whether it is an end, or lies at the border of what is explored.
    ends: Vec<bool>,
    /// By state: those that lead to it.
    before: Vec<Vec<u32>>,
}

impl Graph {
    fn of(model: &Protocol) -> Self {
        let (mut graph, mut known, mut next) = (Graph::default(), HashMap::new(), VecDeque::new());
        for w in model.init_states() {
            graph.number(model, &mut known, &w);
            next.push_back(w);
        }
        let mut from = 0;
        while let Some(w) = next.pop_front() {
            let mut actions = vec![];
            model.actions(&w, &mut actions);
            for after in actions.into_iter().filter_map(|action| model.next_state(&w, action)) {
                if !model.within_boundary(&after) {
                    graph.ends[from] = true;
                    continue;
                }
                let count = graph.ends.len();
                let to = graph.number(model, &mut known, &after);
                graph.before[to].push(u32::try_from(from).unwrap());
                if to == count {
                    next.push_back(after);
                }
            }
            from += 1;
        }
        graph
    }

    fn number(&mut self, model: &Protocol, known: &mut HashMap<u64, usize>, w: &World) -> usize {
        let mut hasher = DefaultHasher::new();
        w.hash(&mut hasher);
        let next = self.ends.len();
        let number = *known.entry(hasher.finish()).or_insert(next);
        if number == next {
            self.ends.push(model.is_at_rest(w));
            self.before.push(vec![]);
        }
        number
    }

    fn without_end(&self) -> Vec<usize> {
        let mut may_end = self.ends.clone();
        let mut next: Vec<usize> = (0..may_end.len()).filter(|i| may_end[*i]).collect();
        while let Some(to) = next.pop() {
            for from in self.before[to].iter().map(|from| *from as usize) {
                if !std::mem::replace(&mut may_end[from], true) {
                    next.push(from);
                }
            }
        }
        (0..may_end.len()).filter(|i| !may_end[*i]).collect()
    }
}
