//! One suite for both places that a work's folder can be: object storage and ConfigMaps.

use std::collections::BTreeSet;
use std::sync::Arc;

use batchjob_operator::api::{ObjectStoreLocation, OutputCompression};
use batchjob_operator::controller::JournalStore;
use batchjob_operator::lifecycle::SEAL_AT;
use batchjob_operator::store::{
    ConfigMaps, Credentials, Document, Folder, IndexEntry, ObjectDocument, RequestHash, ShardWriter, StoreError,
    SwapError, layout, prove_conditional_writes, staged,
};
use batchjob_operator::transport::{HostPolicy, Transport};
use bytes::Bytes;
use futures::TryStreamExt;

use crate::support::scene::Scene;
use crate::support::shared::storage;
use crate::work::Work;

const WORK: &str = "0123456789abcdef0123456789abcdef";

fn objects(scene: &Scene) -> Folder {
    let uri = format!("s3://tests/{}/conformance/", scene.namespace);
    let location = ObjectStoreLocation { endpoint: Some(scene.endpoint.clone()), ..Default::default() };
    let credentials = Credentials::from_iter([
        ("aws_access_key_id", storage().access_key.clone().into()),
        ("aws_secret_access_key", storage().secret_key.clone().into()),
    ]);
    Folder::open(
        &location,
        &uri,
        &credentials,
        &Transport::new(HostPolicy::allowing(["127.0.0.1".parse().unwrap()])).unwrap(),
    )
    .unwrap()
}

fn config_maps(scene: &Scene) -> Folder {
    let maps = ConfigMaps::new(scene.client.clone(), &scene.namespace, "conformance", "j", 4);
    Folder::of_config_maps(maps, &format!("configmap://{}/conformance/", scene.namespace))
}

async fn folders(name: &str) -> (Scene, Vec<Folder>) {
    let scene = Scene::set(name, &[]).await;
    let folders = vec![objects(&scene), config_maps(&scene)];
    (scene, folders)
}

fn document(folder: &Folder) -> ObjectDocument {
    ObjectDocument { folder: folder.clone(), name: layout::JOURNAL.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_change_only_as_they_were_judged() {
    let (_scene, folders) = folders("swap").await;
    for folder in folders {
        let document = document(&folder);
        assert!(document.read().await.unwrap().is_none());
        document.create("{\"rev\": 1}".into()).await.unwrap();
        assert!(matches!(document.create("{\"rev\": 9}".into()).await, Err(SwapError::Changed)), "{folder:?}");
        let (bytes, first) = document.read().await.unwrap().unwrap();
        assert_eq!(bytes, "{\"rev\": 1}");
        document.swap(&first, "{\"rev\": 2}".into()).await.unwrap();
        assert!(matches!(document.swap(&first, "{\"rev\": 3}".into()).await, Err(SwapError::Changed)), "{folder:?}");
        // Writes of other names are nothing to it.
        let (_, second) = document.read().await.unwrap().unwrap();
        assert!(folder.put_new("manifest.json", "{}".into()).await.unwrap());
        document.swap(&second, "{\"rev\": 3}".into()).await.unwrap();
        let proved = prove_conditional_writes(&folder, &format!("{}scratch", layout::work(WORK))).await.unwrap();
        assert_eq!(proved, Ok(()), "{folder:?}");
    }
}

/// As many batches as a journal in a ConfigMap has room for; in object storage some of them leave its head.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_written_to_its_end_and_not_fetched_again_unless_it_changed() {
    let (_scene, folders) = folders("journal").await;
    for folder in folders {
        let mut work = Work::planned(&folder, 24).await;
        work.run_until_settled(24).await;
        let store = JournalStore::new(&folder, SEAL_AT);
        let known = store.read(None, 4).await.unwrap().unwrap();
        assert_eq!(known.0.shards.totals().settled, 24, "{folder:?}");
        assert_eq!(known.0.shards.sealed_segments().is_empty(), folder.is_config_maps(), "{folder:?}");
        let mut indices = BTreeSet::new();
        let see = |index, _: &_| {
            assert!(indices.insert(index), "{index} twice");
            Ok(())
        };
        store.each(&known.0, see).await.unwrap();
        assert_eq!(indices, (0..24).collect(), "{folder:?}");
        let again = store.read(Some(&known), 4).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&again.0, &known.0), "{folder:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_race_one_wins() {
    let (_scene, folders) = folders("race").await;
    for folder in folders {
        let document = document(&folder);
        document.create("0".into()).await.unwrap();
        for round in 1..=10 {
            let (_, judged) = document.read().await.unwrap().unwrap();
            let racers = (0..8).map(|racer| {
                let (document, judged) = (document.clone(), judged.clone());
                async move { document.swap(&judged, format!("{round}-{racer}").into()).await.is_ok() }
            });
            let won = futures::future::join_all(racers).await;
            assert_eq!(won.iter().filter(|won| **won).count(), 1, "{folder:?} in round {round}: {won:?}");
            let winner = won.iter().position(|won| *won).unwrap();
            let (there, _) = document.read().await.unwrap().unwrap();
            assert_eq!(there, format!("{round}-{winner}"), "what the winner wrote is there");
        }
        let names = (0..6).map(|i| (folder.clone(), format!("{}parts/{i}", layout::work(WORK))));
        let puts = names.map(|(folder, name)| async move { folder.put_new(&name, Bytes::from("x")).await.unwrap() });
        assert!(futures::future::join_all(puts).await.iter().all(|put| *put), "neighbours do not get lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_appear_whole_and_only_over_their_own_work() {
    let (_scene, folders) = folders("files").await;
    for folder in folders {
        for (name, compression) in [("a.jsonl", OutputCompression::None), ("b.gz", OutputCompression::Gzip)] {
            let mut upload = folder.create(name, WORK).await.unwrap().compressed(compression);
            upload.write(b"some ").await.unwrap();
            assert!(folder.get(name).await.unwrap().is_none(), "not yet");
            upload.write(b"text").await.unwrap();
            upload.finish().await.unwrap();
            folder.create(name, WORK).await.unwrap().finish().await.unwrap();
            let theirs = folder.create(name, "another").await;
            assert!(matches!(theirs, Err(StoreError::Conflict(_))), "{folder:?}");
        }
        assert_eq!(folder.read("a.jsonl", 100).await.unwrap().unwrap(), "");
        assert!(folder.read("none", 100).await.unwrap().is_none());
        assert!(folder.put_new("_SUCCESS", Bytes::new()).await.unwrap());
        assert!(!folder.put_new("_SUCCESS", Bytes::new()).await.unwrap());
        assert!(folder.exists("_SUCCESS").await.unwrap());
        folder.delete("_SUCCESS").await.unwrap();
        folder.delete("_SUCCESS").await.unwrap();
        assert!(!folder.exists("_SUCCESS").await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_is_read_back_and_tidied() {
    let (_scene, folders) = folders("staged").await;
    for folder in folders {
        document(&folder).create("{}".into()).await.unwrap();
        let spool = std::env::temp_dir();
        let mut writer = ShardWriter::new(&folder, WORK, &spool, 2, 1 << 20);
        for index in 0..5 {
            let entry =
                IndexEntry { index, custom_id: index.to_string(), request_hash: RequestHash::Blake3(String::new()) };
            writer.push("m", &[format!("{{\"n\":{index}}}").as_bytes()], 0, Default::default(), &entry).await.unwrap();
        }
        let shards = writer.finish().await.unwrap();
        assert_eq!(shards.iter().map(|s| (s.first, s.requests)).collect::<Vec<_>>(), [(0, 2), (2, 2), (4, 1)]);
        for shard in &shards {
            let name = layout::shard(WORK, &shard.sha256);
            let chunks = staged::verified(&folder, &name, &shard.sha256).await.unwrap();
            let bytes: Vec<Bytes> = chunks.try_collect().await.unwrap();
            assert_eq!(bytes.concat().len() as u64, shard.bytes);
            let lie = staged::verified(&folder, &name, "another hash").await.unwrap();
            assert!(lie.try_collect::<Vec<Bytes>>().await.is_err(), "{folder:?}");
        }
        folder.delete_below(&layout::work(WORK)).await.unwrap();
        assert!(!folder.exists(&layout::shard(WORK, &shards[0].sha256)).await.unwrap());
        assert!(folder.exists(layout::JOURNAL).await.unwrap());
    }
}
