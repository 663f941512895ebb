//! The time at which a job is expected to be done.

use std::sync::Arc;

use super::stuck::{HOUR, MINUTE, World};
use super::*;
use batchjob_operator::api::{CanaryApproval, ModelStatus};
use batchjob_operator::lifecycle::Turnaround;

fn experience(model: &str, seconds: &[f64]) -> ModelStatus {
    let mut turnaround = Turnaround::default();
    seconds.iter().for_each(|seconds| turnaround.add(*seconds));
    ModelStatus { name: model.into(), turnaround: turnaround.for_status(), ..ModelStatus::default() }
}

/// A job whose account has this experience.
fn world(batches: usize, models: &[ModelStatus]) -> World {
    let mut world = World::new(batches, None);
    world.job.provider.as_mut().unwrap().models = Arc::from(models);
    world
}

/// What status says of the end, and the text for people. The time must not be in the past.
fn eta(world: &World, now: i64) -> (Option<i64>, &str) {
    let at = world.status.estimated_completion_time.as_ref().map(|at| at.0.as_millisecond());
    assert!(at.is_none_or(|at| at > now), "{at:?} at {now}");
    (at, &world.status.display.as_ref().unwrap().eta)
}

/// From ten minutes to some sixteen hours: a spread of a hundred times.
fn wide() -> Vec<f64> {
    (0..100).map(|n| 600.0 * 10.0_f64.powf(f64::from(n) / 50.0)).collect()
}

#[test]
fn the_end_is_unknown_without_experience_and_a_time_of_day_with_it() {
    for (models, known) in [
        (vec![], false),
        (vec![experience("m", &[3_600.0; 4])], false),
        (vec![experience("m", &[3_600.0; 5])], true),
        (vec![experience("other", &[3_600.0; 5])], true),
    ] {
        let mut world = world(1, &models);
        world.look(NOW, "in_progress", &[0], 0);
        let (at, text) = eta(&world, NOW);
        match known {
            true => assert!(
                (NOW + 50 * MINUTE..NOW + 70 * MINUTE).contains(&at.unwrap()) && text == "Jan 01 01:16 UTC",
                "{text}"
            ),
            false => assert_eq!((at, text), (None, "unknown"), "{models:?}"),
        }
    }
}

#[test]
fn polls_that_show_nothing_new_change_the_estimate_seldom_and_never_leave_it_in_the_past() {
    let mut world = world(1, &[experience("m", &wide())]);
    world.look(NOW, "in_progress", &[0], 0);
    let (mut estimates, mut known) = (vec![eta(&world, NOW).0], 0);
    for poll in 1..=24 * 60 {
        let now = NOW + poll * MINUTE;
        world.look(now, "in_progress", &[0], 0);
        let (at, text) = eta(&world, now);
        assert_eq!(at.is_none(), text == "unknown");
        known += u32::from(at.is_some());
        if estimates.last() != Some(&at) {
            estimates.push(at);
        }
    }
    assert!((14 * 60..18 * 60).contains(&known), "known for {known} minutes, for as long as any batch ever took");
    assert_eq!(estimates.last(), Some(&None), "nobody knows anything of a batch that takes longer");
    let limit = 40;
    assert!(estimates.len() <= limit && estimates.is_sorted_by_key(|at| at.unwrap_or(i64::MAX)), "{}", estimates.len());
}

#[test]
fn a_batch_that_is_submitted_or_ends_changes_the_estimate_at_once() {
    let mut world = world(2, &[experience("m", &[3_600.0; 20])]);
    world.journal.shards.push(shard(None));
    world.job.parallelism = 2;
    world.look(NOW, "in_progress", &[0, 0], 0);
    let first = eta(&world, NOW).0.unwrap();
    let ended = || PolledState::Ended { state: BatchEnd::Completed, done: 1, rejected: None };
    let now = NOW + MINUTE;
    world.write(now);
    assert_eq!(eta(&world, now).0, Some(first), "nothing happened");
    world.memory.looks.insert("batch-0".into(), PollResult { at: now, seen: ended() });
    world.write(now);
    let second = eta(&world, now).0.unwrap();
    assert!(second < first - 30 * MINUTE, "one of two ended early, and the third is sent");
    world.journal.shards.push(shard(None));
    world.write(now);
    let third = eta(&world, now).0.unwrap();
    assert!(third > second + 30 * MINUTE, "more is to be sent");
    world.memory.looks.insert("batch-1".into(), PollResult { at: now, seen: ended() });
    world.write(now);
    assert_eq!(eta(&world, now), (None, ""), "no batch runs");
}

#[test]
fn the_end_of_a_job_whose_batches_wait_for_a_person_is_unknown() {
    let job = |change: &dyn Fn(&mut World)| {
        let mut world = world(1, &[experience("m", &[2_000.0; 20])]);
        world.journal.shards.push(shard(None));
        change(&mut world);
        world.look(NOW, "in_progress", &[0], 0);
        let (at, text) = eta(&world, NOW);
        (at.map(|at| (at - NOW) / (36 * MINUTE)), text.to_string())
    };
    let unknown = (None, "unknown".to_string());
    assert_eq!(job(&|_| {}).0, Some(0), "both run at the same time");
    assert_eq!(job(&|world| world.job.parallelism = 1).0, Some(1));
    assert_eq!(job(&|world| world.job.suspend = true), unknown);
    assert_eq!(
        job(&|world| (world.job.suspend, world.journal.shards) =
            (true, vec![world.journal.shards[0].clone()].into_iter().collect()))
        .0,
        Some(0)
    );
    assert_eq!(job(&|world| world.job.stop = Some(StopPolicy::Drain)).0, Some(0), "the other one is not sent");
    let canary = |approval| {
        move |world: &mut World| {
            let planned = serde_json::json!({"requests": 10, "before": 10});
            world.journal.plan.as_mut().unwrap().canary = serde_json::from_value(planned).unwrap();
            (world.job.canary, world.job.parallelism) = (Some(approval), 1);
        }
    };
    assert_eq!(job(&canary(CanaryApproval::Manual)), unknown);
    assert_eq!(job(&canary(CanaryApproval::Automatic)).0, Some(1));
}

/// A restarted operator has not read the account yet.
#[test]
fn an_estimate_outlives_the_experience_until_it_passes() {
    let mut world = world(1, &[experience("m", &[3_600.0; 20])]);
    world.look(NOW, "in_progress", &[0], 0);
    let first = eta(&world, NOW).0;
    world.job.provider.as_mut().unwrap().models = Arc::default();
    world.memory.looks.clear();
    world.write(NOW + MINUTE);
    assert_eq!(eta(&world, NOW + MINUTE).0, first);
    world.look(NOW + 2 * HOUR, "in_progress", &[0], 0);
    assert_eq!(eta(&world, NOW + 2 * HOUR), (None, "unknown"));
}
