//! Journals of other versions of the operator.

use super::*;

/// Journals that were written by the version before segments: opened, planned, and at every later state.
#[tokio::test]
async fn a_journal_of_the_first_version_is_read_and_carried_on() {
    let mut read = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/journals")).unwrap() {
        let path = entry.unwrap().path();
        let written = std::fs::read(&path).unwrap();
        let plain: serde_json::Value = serde_json::from_slice(&written).unwrap();
        let shards: Vec<Shard> = serde_json::from_value(plain["shards"].clone()).unwrap();
        let (_, folder) = stores();
        put(&folder, layout::JOURNAL, written).await;
        let store = JournalStore::new(&folder, SEAL_AT);
        let before = store.read(None, 4).await.unwrap().unwrap();
        assert_eq!(before.0.protocol_version, 1, "{path:?}");
        assert_eq!(before.0.shards.iter().cloned().collect::<Vec<_>>(), shards, "{path:?}");
        assert_eq!(before.0.shards.totals(), sum(&shards), "{path:?}");
        let after = write(&store, &before, |journal| {
            // As decisions have it once the files are deleted.
            journal.shards.iter_mut().for_each(|shard| {
                if let Some(AttemptState::Settled { files, .. }) = shard.attempt.as_mut().map(|a| &mut a.state) {
                    files.clear();
                }
            });
        })
        .await;
        assert_eq!((after.0.protocol_version, after.0.rev), (PROTOCOL_VERSION, before.0.rev + 1), "{path:?}");
        let ids = |shard: &Shard| {
            (shard.sha256.clone(), shard.settled(), shard.attempt.as_ref().map(|a| a.intent_id.clone()))
        };
        let there = all(&store, &after.0).await.unwrap();
        assert_eq!(there.values().map(ids).collect::<Vec<_>>(), shards.iter().map(ids).collect::<Vec<_>>(), "{path:?}");
        assert_eq!(after.0.shards.totals(), sum(&shards), "{path:?}");
        assert_eq!(
            (&after.0.owner, &after.0.commit, &after.0.plan),
            (&before.0.owner, &before.0.commit, &before.0.plan)
        );
        read += 1;
    }
    assert!(read >= 11, "{read} journals");
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_not_taken_for_one_of_ours_whatever_it_holds() {
    let (_, folder) = stores();
    let store = JournalStore::new(&folder, SEAL_AT);
    let newer = NEWEST_PROTOCOL_VERSION + 1;
    put(&folder, layout::JOURNAL, format!(r#"{{"protocolVersion":{newer},"shards":{{"tree":[{{}}]}}}}"#)).await;
    let (journal, _) = store.read(None, 4).await.unwrap().unwrap();
    assert_eq!(journal.protocol_version, newer);
    assert!(journal.shards.is_empty() && journal.plan.is_none());
}

/// The first version takes what is written now for no journal: it acts on none of it.
#[test]
fn the_first_version_cannot_read_a_journal_of_this_one() {
    #[derive(serde::Deserialize)]
    struct First {
        #[allow(dead_code)]
        shards: Vec<serde::de::IgnoredAny>,
    }
    for journal in [Journal::open(WORK.into(), owner(), "spec".into()), planned(3)] {
        let text = serde_json::to_string(&journal).unwrap();
        assert!(serde_json::from_str::<First>(&text).is_err(), "{text}");
    }
}
