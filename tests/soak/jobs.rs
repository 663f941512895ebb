//! Jobs of mixed kind, as the dice say.

use serde_json::{Value, json};

use crate::support::dice::Dice;
use crate::support::quiet::prompt;
use crate::support::scene::{batch_lines, requests};
use crate::world::{NAMESPACE, World, insist};

/// Providers of one account, and the lines that each allows in a batch.
pub const PROVIDERS: [(&str, u64); 3] = [("small", 7), ("middle", 30), ("large", 1000)];

/// Batches of a job whose results go into ConfigMaps: with more it is refused.
const BATCHES_IN_MAPS: u64 = 20;

const MODEL: &str = "gpt-5-mini";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Inline,
    ConfigMaps,
    Object,
    Folder,
    Documents,
    Table,
}

const SOURCES: [Source; 6] =
    [Source::Inline, Source::ConfigMaps, Source::Object, Source::Folder, Source::Documents, Source::Table];

/// What people do to it meanwhile. Times are milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Meddling {
    Nothing,
    /// It is created suspended.
    HeldBack {
        until: u64,
    },
    Paused {
        at: u64,
        until: u64,
    },
    Parallelism {
        at: u64,
        to: u64,
    },
    /// Deleted and applied again as it was.
    Again {
        at: u64,
    },
    /// Its status is gone, as after a restore.
    Wiped {
        at: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Job {
    pub name: String,
    pub lines: usize,
    pub source: Source,
    /// Whether results go into ConfigMaps.
    pub to_map: bool,
    pub provider: &'static str,
    pub parallelism: u64,
    pub meddling: Meddling,
    pub deadline: Option<u64>,
    pub orphan: bool,
}

impl Job {
    /// The `number`th of a soak.
    pub fn cast(seed: u64, number: usize) -> Job {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let mut one_in = |n: u64| dice.roll(1, n) == 1;
        let (to_map, orphan, deadline) = (one_in(3), one_in(2), one_in(12).then_some(60));
        let one_in_five = dice.roll(1, 5) == 1;
        let at = dice.roll(200, 9_000);
        let meddling = match dice.roll(1, 10) {
            1 => Meddling::HeldBack { until: at },
            2 => Meddling::Paused { at, until: at + dice.roll(500, 8_000) },
            3 => Meddling::Parallelism { at, to: dice.roll(1, 8) },
            4 | 5 => Meddling::Again { at },
            6 => Meddling::Wiped { at },
            _ => Meddling::Nothing,
        };
        let lines = if one_in_five { dice.roll(80, 200) } else { dice.roll(3, 60) };
        let (provider, in_a_batch) = PROVIDERS[dice.roll(0, 2) as usize];
        Job {
            name: format!("j{number:04}"),
            lines: if to_map { lines.min(BATCHES_IN_MAPS * in_a_batch) } else { lines } as usize,
            // Each kind in turn, so that no few jobs leave one out.
            source: SOURCES[number % SOURCES.len()],
            to_map,
            provider,
            parallelism: dice.roll(1, 5),
            meddling,
            deadline,
            orphan,
        }
    }

    /// Ids of its requests, in order.
    pub fn ids(&self) -> Vec<String> {
        let id = |i| match self.source {
            Source::Documents => document(i),
            _ => format!("{}-{i}", self.name),
        };
        (0..self.lines).map(id).collect()
    }

    /// What the model says to the `i`th.
    pub fn answer(&self, i: usize) -> String {
        format!("echo: {}", prompt(&self.name, i))
    }

    /// The body of the `i`th as it is billed: sorted keys, no spaces.
    pub fn body(&self, i: usize) -> String {
        let content = Value::from(prompt(&self.name, i));
        format!(r#"{{"messages":[{{"content":{content},"role":"user"}}],"model":"{MODEL}"}}"#)
    }

    /// Puts its input where it will be read.
    pub async fn prepare(&self, world: &World) {
        let (name, text) = (&self.name, batch_lines(&self.name, self.lines));
        match self.source {
            Source::Inline => {}
            Source::ConfigMaps => {
                for (part, text) in ["a", "b"].iter().zip(halves(&text)) {
                    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-{part}")},
                        "data": {"lines.jsonl": text}});
                    apply(world, "configmaps", "/api/v1", map).await;
                }
            }
            Source::Object => world.put(&format!("{NAMESPACE}/in/{name}.jsonl"), text).await,
            Source::Folder => {
                for (part, text) in ["1", "2"].iter().zip(halves(&text)) {
                    world.put(&format!("{NAMESPACE}/in/{name}/part-{part}.jsonl"), text).await;
                }
            }
            Source::Documents => {
                let put = async |i| world.put(&format!("{NAMESPACE}/in/{name}/{}", document(i)), prompt(name, i)).await;
                futures::future::join_all((0..self.lines).map(put)).await;
            }
            Source::Table => {
                let row = |i| format!("{name}-{i},{}\n", prompt(name, i));
                let rows: String = (0..self.lines).map(row).collect();
                world.put(&format!("{NAMESPACE}/in/{name}.csv"), format!("id,text\n{rows}")).await;
            }
        }
    }

    /// Applies the job.
    pub async fn apply(&self, world: &World) {
        apply(world, "batchjobs", "/apis/llmbatch.dev/v1alpha1", self.manifest(world)).await;
    }

    fn manifest(&self, world: &World) -> Value {
        let name = &self.name;
        let at = |uri: String| json!({"uri": format!("s3://tests/{NAMESPACE}/{uri}"), "endpoint": world.endpoint, "secretRef": {"name": "s3"}});
        let template = |id: &str, content: &str| json!({"customID": id, "body": {"messages": [{"role": "user", "content": content}]}});
        let input = match self.source {
            Source::Inline => json!({"inline": {"requests": requests(name, self.lines)}}),
            Source::ConfigMaps => {
                json!({"configMaps": [{"name": format!("{name}-a")}, {"name": format!("{name}-b"), "key": "lines.jsonl"}]})
            }
            Source::Object => json!({"objectStore": at(format!("in/{name}.jsonl"))}),
            Source::Folder => json!({"objectStore": at(format!("in/{name}/"))}),
            Source::Documents => json!({"objectStore": at(format!("in/{name}/")), "format": "Objects",
                "template": template("$(object.key)", "$(object.text)")}),
            Source::Table => json!({"objectStore": at(format!("in/{name}.csv")), "format": "CSV",
                "template": template("$(row.id)", "$(row.text)")}),
        };
        let output = if self.to_map {
            json!({"configMap": {"name": format!("{name}-out")}})
        } else {
            json!({"objectStore": at(format!("out/{name}/"))})
        };
        let mut spec = json!({
            "providerRef": {"name": self.provider}, "model": MODEL, "pollPeriodSeconds": 1,
            "parallelism": self.parallelism, "suspend": matches!(self.meddling, Meddling::HeldBack { .. }),
            "deletionPolicy": if self.orphan { "Orphan" } else { "Cancel" }, "input": input, "output": output,
        });
        if let Some(seconds) = self.deadline {
            spec["activeDeadlineSeconds"] = json!(seconds);
        }
        json!({"apiVersion": "llmbatch.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": name}, "spec": spec})
    }
}

fn document(i: usize) -> String {
    format!("doc-{i:05}.txt")
}

/// The first and the second half of some lines.
fn halves(text: &str) -> [String; 2] {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (first, second) = lines.split_at(lines.len() / 2);
    [first.concat(), second.concat()]
}

/// Applies on the server's side: the same again changes nothing.
async fn apply(world: &World, kind: &str, group: &str, object: Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let path = format!("{group}/namespaces/{NAMESPACE}/{kind}/{name}?fieldManager=soak&force=true");
    let ask = || {
        let request = http::Request::patch(&path).header("content-type", "application/apply-patch+yaml");
        world.client.request::<Value>(request.body(object.to_string().into_bytes()).unwrap())
    };
    insist(&format!("apply {kind}/{name}"), ask).await;
}
