//! What goes wrong, as the dice say.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Size;
use crate::gate::Way;
use crate::replicas::REPLICAS;
use crate::support::dice::Dice;
use crate::support::faults::{batch_faults, wire_faults};
use crate::world::World;

/// What happened so far.
#[derive(Debug, Default)]
pub struct Toll {
    pub kills: Cell<u64>,
    pub cluster_restarts: Cell<u64>,
    pub storage_restarts: Cell<u64>,
    pub outages: Cell<u64>,
    pub outage_seconds: Cell<f64>,
    pub faults: Cell<u64>,
    /// Rows that are billed and come back in no file, at most.
    pub rows_lost: Cell<u64>,
    /// No more trouble.
    pub calm: Cell<bool>,
    /// All jobs have ended.
    pub over: Cell<bool>,
}

fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

/// Kills, restarts and outages, until there were enough of all; then there is calm.
pub async fn strike(world: &Arc<World>, toll: &Toll, size: &Size, seed: u64) {
    let mut dice = [1, 2, 3, 4].map(|strand: u64| Dice(seed ^ (strand << 40)));
    let [kills, clusters, stores, outages] = &mut dice;
    tokio::join!(
        kill(world, toll, size, kills),
        restart_cluster(world, toll, size, clusters),
        restart_storage(world, toll, size, stores),
        shut(world, toll, size, outages),
    );
    reqwest::Client::new().delete(format!("{}/faults", world.sim.admin)).send().await.unwrap();
    toll.calm.set(true);
}

async fn kill(world: &World, toll: &Toll, size: &Size, dice: &mut Dice) {
    while toll.kills.get() < size.kills {
        let (low, high) = size.between_kills;
        sleep(milliseconds(dice.roll(low, high))).await;
        // Mostly a container that is started again at once; now and then a node that stays away until the lease runs out.
        let rest = if dice.roll(1, 10) == 1 { dice.roll(5_000, 20_000) } else { dice.roll(0, 500) };
        let victims = match dice.roll(0, 9) {
            0 => 0..REPLICAS,
            n if n % 2 == 0 => 0..1,
            _ => 1..2,
        };
        let killed = victims.filter(|which| world.replicas.kill(*which, milliseconds(rest))).count();
        add(&toll.kills, killed as u64);
    }
}

/// Waits for the `nth` of `of` even parts of the kills.
async fn turn(toll: &Toll, size: &Size, nth: u64, of: u64) {
    while toll.kills.get() < size.kills * (2 * nth + 1) / (2 * of) {
        sleep(milliseconds(100)).await;
    }
}

async fn restart_cluster(world: &Arc<World>, toll: &Toll, size: &Size, dice: &mut Dice) {
    for nth in 0..size.restarts {
        turn(toll, size, nth, size.restarts).await;
        let (world, away) = (world.clone(), milliseconds(dice.roll(0, size.longest_away)));
        tokio::task::spawn_blocking(move || world.ground.restart_cluster(away)).await.unwrap();
        add(&toll.cluster_restarts, 1);
    }
}

async fn restart_storage(world: &Arc<World>, toll: &Toll, size: &Size, dice: &mut Dice) {
    for nth in 0..size.restarts {
        turn(toll, size, nth, size.restarts).await;
        // Now together with the API server, now after it.
        sleep(milliseconds(dice.roll(0, 2 * size.longest_away))).await;
        let (world, away) = (world.clone(), milliseconds(dice.roll(0, size.longest_away)));
        tokio::task::spawn_blocking(move || world.ground.restart_storage(away)).await.unwrap();
        add(&toll.storage_restarts, 1);
    }
}

async fn shut(world: &World, toll: &Toll, size: &Size, dice: &mut Dice) {
    for nth in 0..size.outages {
        turn(toll, size, nth, size.outages).await;
        world.gate.turn(if dice.roll(0, 1) == 0 { Way::Cut } else { Way::Silent });
        let (low, high) = size.outage;
        let away = milliseconds(dice.roll(low, high));
        sleep(away).await;
        world.gate.turn(Way::Open);
        toll.outage_seconds.set(toll.outage_seconds.get() + away.as_secs_f64());
        add(&toll.outages, 1);
    }
}

/// Has the provider do something wrong every now and then, until there is calm.
pub async fn vex(world: &World, toll: &Toll, size: &Size, seed: u64) {
    let mut dice = Dice(seed ^ (5 << 40));
    loop {
        sleep(milliseconds(dice.roll(200, size.between_faults))).await;
        if toll.calm.get() {
            return;
        }
        let kinds = if dice.roll(1, 3) == 1 { batch_faults(&mut dice) } else { wire_faults(&mut dice) };
        let mut fault = kinds[dice.roll(0, kinds.len() as u64 - 1) as usize].clone();
        let times = dice.roll(1, 2);
        fault["times"] = json!(times);
        add(&toll.faults, 1);
        add(&toll.rows_lost, if fault["action"] == "lose_rows" { times * fault["rows"].as_u64().unwrap() } else { 0 });
        world.sim.admin_post("faults", fault).await;
        world.sim.admin_post("batch-duration", json!({"duration": format!("{}ms", dice.roll(50, 4_000))})).await;
    }
}

/// Ends batches that are stuck, as the vendor would some day, and keeps the replicas running.
pub async fn look_after(world: &World, toll: &Toll) {
    let mut looks = 0u64;
    while !toll.over.get() {
        world.replicas.keep_up();
        looks += 1;
        if looks.is_multiple_of(50) {
            finish_stuck(world).await;
        }
        sleep(milliseconds(100)).await;
    }
}

async fn finish_stuck(world: &World) {
    const STUCK: i64 = 20;
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    let runs =
        |batch: &&Value| !matches!(batch["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled"));
    for batch in world.sim.state().await["batches"].as_array().unwrap().iter().filter(runs) {
        if batch["created_at"].as_i64().unwrap() + STUCK < now {
            world.sim.admin_post(&format!("batches/{}/finish", batch["id"].as_str().unwrap()), json!({})).await;
        }
    }
}

fn milliseconds(n: u64) -> Duration {
    Duration::from_millis(n)
}
