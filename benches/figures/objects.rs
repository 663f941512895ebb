//! `objects`: a folder of small objects planned, next to a client that does no more than list and get them.

use std::time::Instant;

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;

use crate::support::scene::{Scene, condition};
use crate::{Bar, Figure, input, scaled};

const PAIRS: usize = 3;
/// Objects that are fetched at a time, by the operator as well.
const WIDTH: usize = 16;

pub async fn measure() -> Figure {
    let count = scaled(50_000);
    let scene = super::end_to_end::scene("objects").await;
    let mut dice = input::Dice::new(1);
    let texts: Vec<String> = (0..count).map(|_| dice.prose(1_000)).collect();
    let put = async |(i, text)| scene.put(&format!("in/docs/{:02}/document-{i:05}.txt", i % 10), text).await;
    futures::stream::iter(texts.into_iter().enumerate()).for_each_concurrent(32, put).await;
    let mut pairs = vec![];
    for pair in 0..PAIRS {
        let reference = count as f64 / fetched(&scene, count).await;
        pairs.push((count as f64 / planned(&scene, &format!("docs-{pair}"), count).await, reference));
    }
    let name = format!("{count} objects of 1 kB planned; a client that lists and gets them, {WIDTH} at a time");
    Figure::of_pairs("objects", name, "objects/s", &pairs, Bar::AtLeast(0.8))
}

/// Seconds from the creation of a job until its requests are checked and staged.
async fn planned(scene: &Scene, name: &str, count: usize) -> f64 {
    let body = json!({"messages": [{"role": "user", "content": "$(object.text)"}]});
    let input = json!({"format": "Objects", "template": {"customID": "$(object.key)", "body": body}});
    let job = scene.job(name, json!({"inputKey": "docs/", "spec": {"input": input, "suspend": true}}));
    let began = Instant::now();
    scene.jobs().create(&Default::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    let job = scene.wait_condition(name, "Planned", "True", 600).await;
    let took = began.elapsed().as_secs_f64();
    let planned = condition(&job, "Planned").unwrap().2;
    assert!(planned.starts_with(&format!("{count} requests were read and are sound")), "{planned}");
    took
}

/// Seconds to list and get them.
async fn fetched(scene: &Scene, count: usize) -> f64 {
    let (began, folder) = (Instant::now(), format!("{}/in/docs", scene.namespace));
    let objects: Vec<_> = scene.bucket.list(Some(&folder.as_str().into())).try_collect().await.unwrap();
    let get = async |object: object_store::ObjectMeta| {
        scene.bucket.get(&object.location).await.unwrap().bytes().await.unwrap().len()
    };
    let sizes: Vec<usize> = futures::stream::iter(objects).map(get).buffer_unordered(WIDTH).collect().await;
    let took = began.elapsed().as_secs_f64();
    assert_eq!((sizes.len(), sizes.iter().all(|size| *size >= 1_000)), (count, true));
    took
}
