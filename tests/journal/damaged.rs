//! Heads and segments that hold something else than what was stored.

use super::*;

#[tokio::test]
async fn segments_that_are_gone_or_changed_are_never_taken_for_nothing() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    let judged = write(&store, &judged, |j| settle(j, 0..16)).await;
    let plan = layout::plan_segment(WORK, &judged.0.shards.plan_segments()[0].name);
    let sealed = layout::sealed_segment(WORK, &judged.0.shards.sealed_segments()[0].name);
    for name in [plan, sealed] {
        let whole = folder.read(&name, 1 << 20).await.unwrap().unwrap();
        let changed = String::from_utf8(whole.to_vec()).unwrap().replacen("\"requests\":10", "\"requests\":11", 1);
        for broken in [None, Some(changed), Some("[]".into()), Some("{}".into())] {
            folder.delete(&name).await.unwrap();
            if let Some(broken) = broken {
                put(&folder, &name, broken).await;
            }
            assert!(matches!(all(&store, &judged.0).await, Err(StoreError::Corrupt(why)) if why.contains(&name)));
            if name.contains("/plan/") {
                assert!(matches!(store.read(None, 4).await, Err(StoreError::Corrupt(why)) if why.contains(&name)));
                // What is sent already is followed on from what is known.
                assert!(store.read(Some(&judged), 4).await.is_ok());
            }
        }
        put(&folder, &name, whole).await;
        assert_eq!(all(&store, &judged.0).await.unwrap().len(), 600);
    }
}

fn first_open(head: &serde_json::Value) -> serde_json::Value {
    head["shards"]["open"].as_object().unwrap().values().next().unwrap().clone()
}

/// A journal is its owner's to write: what it says is bounded, and every shard is in one place.
#[tokio::test]
async fn a_head_that_contradicts_itself_or_has_no_end_is_refused() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    let judged = write(&store, &judged, |j| settle(j, 0..20)).await;
    let head: serde_json::Value =
        serde_json::from_slice(&folder.read(layout::JOURNAL, 1 << 20).await.unwrap().unwrap()).unwrap();
    type Edit = Box<dyn Fn(&mut serde_json::Value)>;
    let edits: Vec<(&str, Edit)> = vec![
        ("one more", Box::new(|j| j["shards"]["count"] = 601.into())),
        ("a work with a long name", Box::new(|j| j["workID"] = "w".repeat(65).into())),
        ("a shard twice", Box::new(|j| j["shards"]["open"]["300"] = first_open(j))),
        (
            "a shard twice in another's place",
            Box::new(|j| {
                let open = j["shards"]["open"].as_object_mut().unwrap();
                let first = open.keys().next().unwrap().clone();
                let shard = open.remove(&first).unwrap();
                open.insert("300".into(), shard);
            }),
        ),
        ("a shard behind the last", Box::new(|j| j["shards"]["open"]["700"] = first_open(j))),
        ("a plan that begins elsewhere", Box::new(|j| j["shards"]["next"] = 30.into())),
        ("a segment less", Box::new(|j| _ = j["shards"]["plan"].as_array_mut().unwrap().remove(1))),
        ("a sealed segment less", Box::new(|j| _ = j["shards"]["sealed"]["segments"].as_array_mut().unwrap().pop())),
        // Of a segment that is not read yet: nothing else says how many there are.
        ("a number without end", Box::new(|j| j["shards"]["plan"][1]["requests"] = i64::MAX.into())),
        ("a sum without end", Box::new(|j| j["shards"]["sealed"]["totals"]["mayPass"] = i64::MAX.into())),
        (
            "a count of answers without end",
            Box::new(|j| j["shards"]["sealed"]["totals"]["answers"] = serde_json::json!({"empty": i64::MAX})),
        ),
        (
            "a count below zero",
            Box::new(|j| first_open_mut(j)["attempt"] = serde_json::to_value(with_tokens(-1)).unwrap()),
        ),
        (
            "tokens without end",
            Box::new(|j| first_open_mut(j)["attempt"] = serde_json::to_value(with_tokens(i64::MAX)).unwrap()),
        ),
        ("models without end", Box::new(|j| j["shards"]["sealed"]["usage"] = models(34))),
        (
            "a name without end",
            Box::new(|j| {
                let open = j["shards"]["open"].as_object_mut().unwrap().values_mut().next().unwrap();
                open["attempt"]["fileID"] = "f".repeat(5_000).into();
            }),
        ),
        ("a list without end", Box::new(|j| j["shards"] = vec![first_open(j); 2_001].into())),
        ("values without end", Box::new(|j| j["shards"]["junk"] = vec![0; 2_200_000].into())),
        ("no shards at all", Box::new(|j| j["shards"] = "none".into())),
    ];
    let mut taken = vec![];
    for (what, edit) in edits {
        let mut changed = head.clone();
        edit(&mut changed);
        put(&folder, layout::JOURNAL, serde_json::to_vec(&changed).unwrap()).await;
        if !matches!(store.read(None, 4).await, Err(StoreError::Corrupt(_))) {
            taken.push(what);
        }
    }
    assert!(taken.is_empty(), "taken for a journal: {taken:?}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    put(&folder, layout::JOURNAL, format!(r#"{{"protocolVersion":2,"shards":{deep}}}"#)).await;
    assert!(matches!(store.read(None, 4).await, Err(StoreError::Corrupt(_))));
    put(&folder, layout::JOURNAL, serde_json::to_vec(&head).unwrap()).await;
    assert_eq!(store.read(None, 4).await.unwrap().unwrap().0, judged.0);
}

#[tokio::test]
async fn a_head_has_as_many_running_batches_files_and_codes_as_it_may_and_not_one_more() {
    let (_, folder) = stores();
    let (store, judged) = opened(&folder, 600).await;
    write(&store, &judged, |j| settle(j, 0..20)).await;
    let head: serde_json::Value =
        serde_json::from_slice(&folder.read(layout::JOURNAL, 1 << 20).await.unwrap().unwrap()).unwrap();
    /// Makes so many.
    type Edit = fn(&mut serde_json::Value, usize);
    let limits: [(&str, usize, Edit); 4] = [
        ("batches that may run", 500, |j, count| {
            let mut shard = first_open(j);
            shard["attempt"] =
                serde_json::to_value(attempt(0, 1, AttemptState::Submitted { batch_id: "batch".into(), at: 1 }))
                    .unwrap();
            let open = (0..count).map(|index| (index.to_string(), shard.clone()));
            j["shards"] = serde_json::json!({"count": count, "open": open.collect::<serde_json::Map<_, _>>()});
        }),
        ("files of an attempt", 64, |j, count| first_open_mut(j)["attempt"]["files"] = vec!["f"; count].into()),
        ("codes of an attempt", 64, |j, count| first_open_mut(j)["attempt"]["errors"] = codes(count)),
        ("codes of earlier rounds", 64, |j, count| first_open_mut(j)["tookErrors"] = codes(count)),
    ];
    for (what, limit, edit) in limits {
        for (count, is_taken) in [(limit, true), (limit + 1, false)] {
            let mut changed = head.clone();
            edit(&mut changed, count);
            put(&folder, layout::JOURNAL, serde_json::to_vec(&changed).unwrap()).await;
            match store.read(None, 4).await {
                Ok(_) => assert!(is_taken, "{count} {what} were taken"),
                Err(StoreError::Corrupt(why)) => assert!(!is_taken, "{count} {what}: {why}"),
                Err(other) => panic!("{count} {what}: {other}"),
            }
        }
    }
}

/// A settled attempt whose answers took so many tokens.
fn with_tokens(input_tokens: i64) -> Attempt {
    let mut attempt = settled(0, 1, [9, 1, 0, 0, 0]);
    let AttemptState::Settled { usage, .. } = &mut attempt.state else { unreachable!() };
    usage.tokens.input_tokens = input_tokens;
    attempt
}

fn models(count: usize) -> serde_json::Value {
    (0..count).map(|n| (format!("m{n}"), serde_json::json!({"answered": 1}))).collect::<serde_json::Map<_, _>>().into()
}

fn first_open_mut(head: &mut serde_json::Value) -> &mut serde_json::Value {
    head["shards"]["open"].as_object_mut().unwrap().values_mut().next().unwrap()
}

fn codes(count: usize) -> serde_json::Value {
    let code = |n| serde_json::json!({"code": format!("http_{n}"), "count": 1, "sampleCustomID": "r", "message": ""});
    (0..count).map(code).collect()
}
