#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn of(seconds: &[f64]) -> Turnaround {
    let mut turnaround = Turnaround::default();
    seconds.iter().for_each(|seconds| turnaround.add(*seconds));
    turnaround
}

fn left(running: &[f64], waiting: usize, parallelism: usize, earlier: &[f64]) -> Option<f64> {
    let like_waiting = of(earlier);
    let running = running.iter().map(|elapsed| (like_waiting.clone(), *elapsed)).collect();
    seconds_left(&OpenBatches { running, waiting, like_waiting, parallelism })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn more_batches_or_fewer_at_a_time_never_end_earlier(
        earlier in prop::collection::vec(1.0..100_000.0f64, 5..40),
        elapsed in prop::collection::vec(0.0..1.0f64, 1..5),
        waiting in 0..12usize, parallelism in 1..6usize,
    ) {
        let longest = earlier.iter().copied().fold(0.0, f64::max);
        let elapsed: Vec<f64> = elapsed.iter().map(|share| share * longest / 2.0).collect();
        let now = left(&elapsed, waiting, parallelism, &earlier).unwrap();
        let near = now * 1e-9;
        prop_assert!(now >= 0.0);
        prop_assert!(left(&elapsed, waiting + 1, parallelism, &earlier).unwrap() >= now - near);
        prop_assert!(left(&elapsed, waiting, parallelism + 1, &earlier).unwrap() <= now + near);
        // Later, with nothing ended, the end is no earlier.
        let later: Vec<f64> = elapsed.iter().map(|elapsed| elapsed + longest / 8.0).collect();
        if let Some(then) = left(&later, waiting, parallelism, &earlier) {
            prop_assert!(longest / 8.0 + then >= now - near, "{then} and {} for {now}", longest / 8.0);
        }
    }

    /// Without batches that wait, it is the time at which the product of the shares is one half.
    #[test]
    fn all_of_several_batches_have_to_end(
        earlier in prop::collection::vec(1.0..100_000.0f64, 5..60), batches in 1..8usize,
    ) {
        let end = left(&vec![0.0; batches], 0, 4, &earlier).unwrap();
        let share = of(&earlier).share_within(end).unwrap().powi(batches as i32);
        prop_assert!((share - 0.5).abs() < 0.12, "{share} of {batches} batches end within {end} s");
    }
}

#[test]
fn batches_that_wait_come_in_rounds() {
    let earlier: Vec<f64> = (0..100).map(|n| 3_000.0 + f64::from(n) * 10.0).collect();
    let rounds = |waiting| left(&[0.0; 4], waiting, 4, &earlier).unwrap() / left(&[0.0; 4], 0, 4, &earlier).unwrap();
    for (waiting, expected) in [(4, 2.0), (36, 10.0), (396, 100.0), (39_996, 10_000.0)] {
        assert!((rounds(waiting) / expected - 1.0).abs() < 0.15, "{waiting}: {} rounds", rounds(waiting));
    }
}

#[test]
fn nothing_is_said_of_a_batch_that_took_longer_than_all_others() {
    let earlier = [60.0, 60.0, 70.0, 80.0, 90.0, 6_000.0];
    assert!(left(&[100.0], 0, 4, &earlier).unwrap() > 3_000.0, "one of six took so long");
    assert_eq!(left(&[9_000.0], 0, 4, &earlier), None);
    assert_eq!(left(&[0.0, 9_000.0], 0, 4, &earlier), None);
}

#[test]
fn a_model_without_experience_has_that_of_the_account() {
    let model = |name: &str, batches: usize, seconds: f64| ModelStatus {
        name: name.into(),
        turnaround: of(&vec![seconds; batches]).for_status(),
        ..ModelStatus::default()
    };
    let account = [model("known", 5, 60.0), model("new", 4, 6_000.0)];
    let batches = |models: &[ModelStatus], name| turnaround_of(models, name).map(|turnaround| turnaround.batches());
    assert_eq!(batches(&account, "known"), Some(5));
    assert_eq!(batches(&account, "new"), Some(9));
    assert_eq!(batches(&account, "other"), Some(9));
    assert_eq!(batches(&account[1..], "new"), None, "four batches are too few");
}

/// A way in which batches take time, as a share of the batches (0 to 1) that takes at most so many seconds.
type Takes = fn(f64) -> f64;

/// The distributions, each with the largest median error in percent, at the submission and halfway, that is accepted.
const PROVIDERS: [(&str, Takes, [i64; 2]); 6] = [
    ("one hour, always", |_| 3_600.0, [15, 15]),
    ("10 minutes to 2 hours, evenly", |share| 600.0 + share * 6_600.0, [30, 25]),
    ("a median of 1 hour, and a long tail (log-logistic)", |share| 3_600.0 * logistic(share).exp(), [60, 50]),
    ("14 minutes to 24 hours, a spread of 100 times", |share| 864.0 * 100.0_f64.powf(share), [60, 45]),
    ("20 minutes, and 10 hours for one of five", |share| if share < 0.8 { 1_200.0 } else { 36_000.0 }, [25, 25]),
    ("exponential with a mean of 1 hour", |share| -3_600.0 * (1.0 - share).ln(), [60, 50]),
];
/// Batches of a job, and those at a time.
const SHAPES: [(usize, usize); 3] = [(1, 4), (4, 4), (16, 4)];
const JOBS: usize = 200;

/// Quantile of the logistic distribution that is nearly the standard normal one.
fn logistic(share: f64) -> f64 {
    (share / (1.0 - share)).ln() / 1.702
}

/// A job whose batches took these times.
struct Course {
    /// Beginning and end of each batch, in seconds.
    batches: Vec<(f64, f64)>,
}

impl Course {
    fn new(takes: Takes, seed: usize, (batches, parallelism): (usize, usize)) -> Course {
        let mut slots = vec![0.0_f64; parallelism];
        let batch = |batch| {
            slots.sort_by(|a, b| f64::total_cmp(b, a));
            let start = slots.pop().unwrap();
            let end = start + takes(chance(seed, batch));
            slots.push(end);
            (start, end)
        };
        Course { batches: (0..batches).map(batch).collect() }
    }

    fn end(&self) -> f64 {
        self.batches.iter().map(|(_, end)| *end).fold(0.0, f64::max)
    }

    /// Returns the end that is expected at `at`.
    fn expected(&self, at: f64, parallelism: usize, learned: &Turnaround) -> Option<f64> {
        let running = self.batches.iter().filter(|(start, end)| *start <= at && at < *end);
        let running: Vec<_> = running.map(|(start, _)| (learned.clone(), at - start)).collect();
        let waiting = self.batches.iter().filter(|(start, _)| *start > at).count();
        let open = OpenBatches { running, waiting, like_waiting: learned.clone(), parallelism };
        seconds_left(&open).map(|left| at + left)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Thousands of jobs at providers of all kinds. docs/jobs.md has the figures.
#[test]
fn estimates_are_about_right_and_never_in_the_past() {
    let docs = include_str!("../../../docs/jobs.md");
    let mut rows = vec![];
    for (number, (name, takes, limits)) in PROVIDERS.into_iter().enumerate() {
        let seed = |job: usize| 1_000_000 * (number + 1) + job;
        let learned = of(&(0..300).map(|batch| takes(chance(seed(999_999), batch))).collect::<Vec<_>>());
        let (mut errors, mut early, mut unknown) = ([vec![], vec![]], 0, 0);
        for (shape, job) in SHAPES.iter().flat_map(|shape| (0..JOBS).map(move |job| (*shape, job))) {
            let course = Course::new(takes, seed(job * 100 + shape.0), shape);
            let end = course.end();
            for (errors, share) in errors.iter_mut().zip([0.0, 0.5]) {
                let Some(expected) = course.expected(end * share, shape.1, &learned) else {
                    unknown += 1;
                    continue;
                };
                assert!(expected >= end * share, "{name}: {expected} at {}", end * share);
                early += usize::from(share == 0.0 && end <= expected);
                errors.push((expected - end).abs() / end * 100.0);
            }
        }
        let jobs = SHAPES.len() * JOBS;
        let [first, half] = errors.map(|mut errors| median(&mut errors).round() as i64);
        let (early, unknown) = (early * 100 / jobs, unknown * 100 / (2 * jobs));
        let row = format!("| {name} | {first} % | {half} % | {early} % |");
        println!("{row} unknown {unknown} %");
        assert!(first <= limits[0] && half <= limits[1] && unknown <= 5, "{row} {unknown}");
        // Where many batches take the same time, many jobs end at the very time of the estimate.
        let most = if [0, 4].contains(&number) { 100 } else { 60 };
        assert!((40..=most).contains(&early), "about half of the jobs end by then: {row}");
        rows.push(row);
    }
    rows.iter().for_each(|row| assert!(docs.contains(row), "docs/jobs.md lacks the row {row}"));
}

/// A provider that became three times slower than it ever was.
#[test]
fn a_job_at_a_provider_that_became_slower_is_of_unknown_end_rather_than_late() {
    let learned = of(&[3_600.0; 50]);
    let course = Course { batches: vec![(0.0, 10_800.0)] };
    let at = |minutes: u32| course.expected(f64::from(minutes) * 60.0, 4, &learned);
    for minutes in 0..180 {
        assert!(at(minutes).is_none_or(|expected| expected >= f64::from(minutes) * 60.0), "after {minutes} minutes");
    }
    assert!(at(0).is_some() && at(90).is_none());
}
