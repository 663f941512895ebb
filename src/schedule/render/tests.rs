#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{read, render};

const NIGHTLY: &str = r#"
apiVersion: llmbatch.dev/v1alpha1
kind: BatchProvider
metadata: {name: openai}
spec: {}
---
apiVersion: llmbatch.dev/v1alpha1
kind: CronBatchJob
metadata: {name: nightly, namespace: news, uid: 6f1c}
spec:
  schedule: "30 2 * * MON-FRI"
  timeZone: Europe/Berlin
  jobTemplate:
    spec:
      providerRef: {name: openai}
      model: gpt-5-mini
      input:
        objectStore: {uri: "s3://news/articles/$(scheduledTime:%Y/%m/%d:-1d)/", secretRef: {name: s3}}
        format: Objects
        template:
          customID: $(object.key)
          body: {messages: [{role: user, content: "Summarise this article of $(scheduledTime:%d.%m.%Y:-1d): $(object.text)"}]}
      output:
        objectStore: {uri: "s3://news/summaries/$(scheduledTime:%Y-%m-%d)/", secretRef: {name: s3}}
"#;

fn rendered(starts: &str) -> Result<String, String> {
    render(read(NIGHTLY).unwrap(), starts.parse()?)
}

#[test]
fn a_date_makes_the_batch_job_of_that_date() {
    let yaml = rendered("2026-11-20").unwrap();
    insta::assert_snapshot!(yaml, @r#"
    ---
    apiVersion: llmbatch.dev/v1alpha1
    kind: BatchJob
    metadata:
      annotations:
        llmbatch.dev/scheduled-timestamp: "2026-11-20T02:30:00+01:00"
      name: nightly-29918970
      namespace: news
    spec:
      backoffLimitPerBatch: 3
      backoffLimitPerRequest: 2
      deletionPolicy: Cancel
      endpoint: ChatCompletions
      input:
        compression: Auto
        emptyObjects: Skip
        emptyPolicy: Fail
        format: Objects
        hiddenObjects: Skip
        objectStore:
          secretRef:
            name: s3
          uri: s3://news/articles/2026/11/19/
        template:
          body:
            messages:
            - content: "Summarise this article of 19.11.2026: $(object.text)"
              role: user
          customID: $(object.key)
      model: gpt-5-mini
      output:
        compression: None
        includeRequests: false
        objectStore:
          secretRef:
            name: s3
          uri: s3://news/summaries/2026-11-20/
        partialResults: false
      parallelism: 4
      pollPeriodSeconds: 60
      priority: 0
      providerFilePolicy: Delete
      providerRef:
        kind: BatchProvider
        name: openai
      runID: 20261120T013000Z
      suspend: false
    "#);
    for other in ["2026-11-20T02:30", "2026-11-20T01:30:00Z", "2026-11-20T02:30:00+01:00"] {
        assert_eq!(rendered(other).unwrap(), yaml, "{other}");
    }
}

#[test]
fn days_make_a_batch_job_for_each_start() {
    let cron = read(NIGHTLY).unwrap();
    let day = |text: &str| text.parse().unwrap();
    let yaml = render(cron.clone(), super::Starts::Days(day("2026-11-20"), day("2026-11-24"))).unwrap();
    let ids: Vec<&str> = yaml.lines().filter_map(|line| line.trim().strip_prefix("runID: ")).collect();
    assert_eq!(ids, ["20261120T013000Z", "20261123T013000Z", "20261124T013000Z"]);
    let error = render(cron, super::Starts::Days(day("2000-01-01"), day("2026-11-24"))).unwrap_err();
    assert_eq!(error, "there are more than 1000 starts; name fewer days");
}

#[test]
fn errors_say_what_to_write_instead() {
    let mut errors: Vec<String> =
        ["2026-11-21", "2026-11-20T02:31", "2026-03-29T02:30", "2026-10-25T02:30", "yesterday", "2026-13-01"]
            .iter()
            .map(|starts| rendered(starts).unwrap_err())
            .collect();
    let with = |from: &str, to: &str| {
        render(read(&NIGHTLY.replace(from, to)).unwrap(), "2026-11-20".parse().unwrap()).unwrap_err()
    };
    errors.push(with("30 2 * * MON-FRI", "@every 25h"));
    errors.push(with("30 2 * * MON-FRI", "30 2 31 2 *"));
    errors.push(with("Europe/Berlin", "CET-1"));
    errors.push(with("%Y/%m/%d:-1d", "%Y/%m/%d:1d"));
    for manifest in ["a: [", "kind: CronJob", "apiVersion: llmbatch.dev/v1alpha1\nkind: CronBatchJob\nspec: {}\n"] {
        errors.push(read(manifest).unwrap_err());
    }
    errors.push(read(&NIGHTLY.replace("timeZone", "timezone")).unwrap_err());
    errors.push(read(&NIGHTLY.replace("customID", "customId")).unwrap_err());
    errors.push(read(&format!("{NIGHTLY}\n---{NIGHTLY}")).unwrap_err());
    insta::assert_snapshot!(errors.join("\n"), @"
    the schedule has no start then; the next one is at 2026-11-23T02:30:00+01:00
    the schedule has no start then; the next one is at 2026-11-23T02:30:00+01:00
    clocks in Europe/Berlin show 2026-03-29T02:30:00 never or twice; write it with its offset, such as 2026-03-29T02:30:00+01:00
    clocks in Europe/Berlin show 2026-10-25T02:30:00 never or twice; write it with its offset, such as 2026-10-25T02:30:00+01:00
    write a date such as 2026-11-21, or a time such as 2026-11-21T02:30 or 2026-11-21T01:30:00Z
    write a date such as 2026-11-21, or a time such as 2026-11-21T02:30 or 2026-11-21T01:30:00Z
    `@every` counts from the last start, not from a date; name the time of a start, such as 2026-11-21T02:30
    the schedule has no start in the five years from then
    `spec.timeZone` is `CET-1`, which is no time zone; take a name of the IANA time zone database such as `Europe/Berlin` or `UTC`, or leave the field out for UTC
    `spec.jobTemplate.spec.input.objectStore.uri` has the variable `$(scheduledTime:%Y/%m/%d:1d)` with the offset `1d`, which cannot be read; write a number of at most five digits with one of the units s, m, h, d and w, such as `-1d` or `+90m`
    it is no YAML: error: line 1 column 4: unclosed bracket '['
     --> <input>:1:4
      |
    1 | a: [
      |    ^ unclosed bracket '['
    it has 0 objects of `kind: CronBatchJob` and `apiVersion: llmbatch.dev/…`; it needs one
    its CronBatchJob cannot be read: missing field `schedule` at line 1 column 69
    its CronBatchJob has the field `spec.timezone`, which is not known; correct its name
    its CronBatchJob cannot be read: missing field `customID` at line 1 column 442
    it has 2 objects of `kind: CronBatchJob` and `apiVersion: llmbatch.dev/…`; it needs one
    ");
}

#[test]
fn distances_from_the_last_start_take_the_time_of_a_start() {
    let cron = read(&NIGHTLY.replace("30 2 * * MON-FRI", "@every 25h")).unwrap();
    let yaml = render(cron, "2026-11-20T02:31".parse().unwrap()).unwrap();
    assert!(yaml.contains("runID: 20261120T013100Z"), "{yaml}");
}
