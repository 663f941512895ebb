#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};

use super::{child, child_name};
use crate::api::CronBatchJobObject;
use crate::schedule::Zone;

/// A CronBatchJob whose children have this spec.
fn cron(spec: Value) -> CronBatchJobObject {
    let mut whole = json!({
        "providerRef": {"name": "p"}, "input": {"configMaps": [{"name": "in"}]}, "output": {"configMap": {"name": "out"}},
    });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let cron = json!({
        "apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob",
        "metadata": {"name": "nightly", "namespace": "shop", "uid": "u-1"},
        "spec": {
            "schedule": "30 2 * * *", "timeZone": "Europe/Berlin",
            "jobTemplate": {"metadata": {"labels": {"team": "news"}}, "spec": whole},
        },
    });
    serde_json::from_str(&cron.to_string()).unwrap()
}

/// The child of the night of 21 November 2026, or the error.
fn made(spec: Value) -> Result<Value, String> {
    let zone = Zone::named("Europe/Berlin").unwrap();
    let child = child(&cron(spec), &zone, "2026-11-21T01:30:00Z".parse().unwrap());
    child.map(|child| serde_json::to_value(child).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_child_has_its_scheduled_time_in_its_name_its_run_id_and_an_annotation() {
    let child = made(json!({})).unwrap();
    assert_eq!(
        child["metadata"],
        json!({
            "name": "nightly-29920410", "namespace": "shop", "labels": {"team": "news"},
            "annotations": {"llmbatch.dev/scheduled-timestamp": "2026-11-21T02:30:00+01:00"},
            "ownerReferences": [{
                "apiVersion": "llmbatch.dev/v1alpha1", "kind": "CronBatchJob", "name": "nightly", "uid": "u-1", "controller": true,
            }],
        })
    );
    assert_eq!(child["spec"]["runID"], "20261121T013000Z");
    assert_eq!(child_name("nightly", "2026-11-21T01:30:59Z".parse().unwrap()), "nightly-29920410");
}

#[test]
fn variables_are_replaced_wherever_a_run_differs_from_others() {
    let child = made(json!({
        "runID": "night-$(scheduledTime:%Y-%m-%d)",
        "requestDefaults": {"metadata": {"day": "$(scheduledTime:%d)"}},
        "input": {
            "objectStore": {"uri": "s3://b/in/$(scheduledTime:%Y/%m/%d:-1d)/", "secretRef": {"name": "s"}}, "format": "Rows",
            "template": {"customID": "$(row.id)", "bodyJSON": "{\"input\": \"On $(scheduledTime:%F2): $(row.text) $$(x)\"}".replace("%F2", "%Y-%m-%d")},
        },
        "output": {"objectStore": {"uri": "s3://b/out/$(scheduledTime:%Y)/$(runID)/", "secretRef": {"name": "s"}}},
        "reuseFrom": [
            {"objectStore": {"uri": "s3://b/out/fixed/", "secretRef": {"name": "s"}}},
            {"objectStore": {"uri": "s3://b/out/$(scheduledTime:%Y/%m/%d:-1d)/", "secretRef": {"name": "s"}}},
        ],
    }))
    .unwrap();
    let spec = &child["spec"];
    assert_eq!(spec["runID"], "night-2026-11-21");
    assert_eq!(spec["requestDefaults"], json!({"metadata": {"day": "21"}}));
    assert_eq!(spec["input"]["objectStore"]["uri"], "s3://b/in/2026/11/20/");
    assert_eq!(spec["input"]["template"]["customID"], "$(row.id)");
    assert_eq!(spec["input"]["template"]["bodyJSON"], "{\"input\": \"On 2026-11-21: $(row.text) $$(x)\"}");
    assert_eq!(spec["output"]["objectStore"]["uri"], "s3://b/out/2026/$(runID)/");
    assert_eq!(spec["reuseFrom"][0]["objectStore"]["uri"], "s3://b/out/fixed/");
    assert_eq!(spec["reuseFrom"][1]["objectStore"]["uri"], "s3://b/out/2026/11/20/");

    let child = made(json!({
        "input": {"inline": {"requests": [{"customID": "day-$(scheduledTime:%d)", "body": {"input": "$(scheduledTime:%Y) $(date)"}}]}},
        "output": {"configMap": {"name": "out-$(scheduledTime:%Y%m%d)"}},
    }))
    .unwrap();
    let request = &child["spec"]["input"]["inline"]["requests"][0];
    assert_eq!((&request["customID"], &request["body"]["input"]), (&json!("day-21"), &json!("2026 $(date)")));
    assert_eq!(child["spec"]["output"]["configMap"]["name"], "out-20261121");
    let maps =
        made(json!({"input": {"configMaps": [{"name": "in-$(scheduledTime:%d)", "key": "$(scheduledTime:%m).csv"}]}}))
            .unwrap();
    assert_eq!(maps["spec"]["input"]["configMaps"], json!([{"name": "in-21", "key": "11.csv"}]));
}

#[test]
fn each_child_has_the_budget_and_the_canary_of_the_template() {
    let (budget, canary) =
        (json!({"maxCostUSD": "25.00", "onExceeded": "Fail"}), json!({"requests": 10, "approval": "Automatic"}));
    let spec = &made(json!({"budget": budget, "canary": canary})).unwrap()["spec"];
    assert_eq!((&spec["budget"], &spec["canary"]), (&budget, &canary));
}

#[test]
fn errors_name_the_field_the_value_and_the_remedy() {
    let store = |uri: &str| json!({"objectStore": {"uri": uri, "secretRef": {"name": "s"}}});
    let specs = [
        json!({"runID": "$(scheduledTime)"}),
        json!({"runID": "$(scheduledTime:%Q)"}),
        json!({"input": store("s3://b/$(runID)/")}),
        json!({"input": store("s3://b/$(scheduledTime:%Y/")}),
        json!({"input": {"configMaps": [{"name": "a"}, {"name": "IN-$(scheduledTime:%d)"}]}}),
        json!({"input": {"configMaps": [{"name": "a", "key": "$(scheduledTime:%Y/%m)"}]}}),
        json!({"output": store("s3://b/$(scheduledTime:%Y/%m:1d)/")}),
        json!({"output": {"configMap": {"name": "$(scheduledTime)"}}}),
        json!({"reuseFrom": [store("s3://b/a/"), store("s3://b/$(name)/")]}),
        json!({"requestDefaultsJSON": "{\"a\": \"$(scheduledTime:%A)\"}"}),
        json!({"stopPolicy": "Drain"}),
    ];
    let errors: Vec<String> = specs.into_iter().map(|spec| made(spec).unwrap_err()).collect();
    insta::assert_snapshot!(errors.join("\n"), @"
    `spec.jobTemplate.spec.runID` becomes `2026-11-21T02:30:00+01:00`; it takes at most 63 letters, digits, `-`, `_` and `.`: write a format such as `$(scheduledTime:%Y-%m-%d)`, or leave it out for `20261121T013000Z`
    `spec.jobTemplate.spec.runID` has the variable `$(scheduledTime:%Q)` with the conversion `%Q`, which is not known; write one of `%Y`, `%m`, `%d`, `%H`, `%M`, `%S`, `%j` (day of the year), `%G` and `%V` (ISO year and week), `%s` (seconds since 1970) and `%%`
    `spec.jobTemplate.spec.input.objectStore.uri` has the variable `$(runID)`; `$(scheduledTime)` is known, and `$$(` is a literal `$(`
    `spec.jobTemplate.spec.input.objectStore.uri` has a `$(scheduledTime` without its `)`; write `$(scheduledTime)`
    `spec.jobTemplate.spec.input.configMaps[1].name` becomes `IN-21`; it takes at most 253 lower-case letters, digits, `-` and `.`: write a format such as `reviews-$(scheduledTime:%Y-%m-%d)`
    `spec.jobTemplate.spec.input.configMaps[0].key` becomes `2026/11`; it takes at most 253 letters, digits, `-`, `_` and `.`: write a format such as `$(scheduledTime:%Y-%m-%d).jsonl`
    `spec.jobTemplate.spec.output.objectStore.uri` has the variable `$(scheduledTime:%Y/%m:1d)` with the offset `1d`, which cannot be read; write a number of at most five digits with one of the units s, m, h, d and w, such as `-1d` or `+90m`
    `spec.jobTemplate.spec.output.configMap.name` becomes `2026-11-21T02:30:00+01:00`; it takes at most 240 lower-case letters, digits, `-` and `.`: write a format such as `reviews-$(scheduledTime:%Y-%m-%d)`
    `spec.jobTemplate.spec.reuseFrom[1].objectStore.uri` has the variable `$(name)`; `$(scheduledTime)` is known, and `$$(` is a literal `$(`
    `spec.jobTemplate.spec.requestDefaultsJSON` has a variable `$(scheduledTime:…)` that cannot be read; write a format such as `$(scheduledTime:%Y-%m-%d)`, and an offset such as `$(scheduledTime:%Y-%m-%d:-1d)`
    `spec.jobTemplate.spec.stopPolicy` may not be set: a BatchJob that is told to stop sends nothing; set `spec.suspend`
    ");
}

#[test]
fn a_name_that_leaves_no_room_for_the_time_is_refused() {
    let mut cron = cron(json!({}));
    cron.metadata.name = Some("n".repeat(53));
    let error = child(&cron, &Zone::utc(), "2026-11-21T01:30:00Z".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(
        error,
        "`metadata.name` has 53 characters; it needs 1 to 52, so that the names of its BatchJobs have no more than 63"
    );
    cron.metadata.name = Some("n".repeat(52));
    let child = child(&cron, &Zone::utc(), "2026-11-21T01:30:00Z".parse().unwrap()).unwrap();
    assert_eq!(child.metadata.name.unwrap().len(), 61);
}
