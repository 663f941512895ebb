//! What a tenant writes over what the operator keeps, to reach a neighbour in the same account.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::tenancy::{Stage, cluster_provider};

const NOT_OURS: &str = "carries nothing that says that it belongs to this job";

/// A tenant and a neighbour, and an account that both use.
struct Forger {
    stage: Stage,
    account: String,
}

/// What is forged over the tenant's own journal.
struct Forgery {
    what: &'static str,
    /// At the top.
    top: Value,
    /// In the attempt of its shard.
    attempt: Value,
    /// What the tenant is told: a reason, and words of the message.
    told: Option<(&'static str, &'static str)>,
}

impl Forger {
    async fn set(name: &str) -> Forger {
        let stage = Stage::set(name).await;
        let account = format!("{}-shared", stage.tenant.namespace);
        cluster_provider(&stage, &account, json!([{"names": [stage.tenant.namespace]}]));
        // Trying it out calls what faults are placed at.
        stage.tenant.kubectl(&["wait", "--for=condition=ready", "--timeout=60s", "clusterbatchprovider", &account]);
        Forger { stage, account }
    }

    fn apply(&self, name: &str, output: Option<Value>) {
        let mut job = self.stage.job(name, &[]);
        job["spec"]["providerRef"] = json!({"kind": "ClusterBatchProvider", "name": self.account});
        job["spec"]["backoffLimitPerRequest"] = json!(0);
        if let Some(output) = output {
            job["spec"]["output"] = output;
        }
        self.stage.tenant.apply(&job.to_string());
    }

    fn forgeries(&self) -> Vec<Forgery> {
        let (batch, file) = (&self.stage.batch["id"], &self.stage.batch["input_file_id"]);
        let theirs = &self.stage.journal;
        let work = json!({"workID": theirs["workID"]});
        let intent = &theirs["shards"]["open"]["0"]["attempt"]["intentID"];
        let submitted = json!({"state": "Submitted", "batchID": batch, "at": 0});
        let mut ghost = theirs["owner"].clone();
        ghost["uid"] = json!("gone");
        let settled = json!({"state": "Settled", "batchID": batch, "ended": "completed", "part": null, "files": [file, batch],
            "counts": {"total": 3, "succeeded": 0, "failed": 0, "expired": 0, "cancelled": 0, "missing": 3}});
        let refused = json!({"state": "Refused", "refusal": "NotSent", "message": "x", "at": 0, "fileID": file});
        let asked = Some(("AwaitingAnswer", NOT_OURS));
        let in_use = Some(("OutputConflict", "in use by BatchJob"));
        let gone = Some(("OutputConflict", "was staged and is gone"));
        let not_deleted = Some(("OutputConflict", "is not this job's; it is not deleted"));
        let not_sent = Some(("ProviderRejected", "is not this job's; it is not sent"));
        let intended = json!({"state": "Intended", "intentID": intent, "fileID": file, "postBy": 1});
        let revoking = json!({"state": "Revoking", "intentID": "none", "fileID": file, "postBy": 1});
        let forgery = |what, top: Value, attempt: Value, told| Forgery { what, top, attempt, told };
        vec![
            forgery("batch", json!({}), submitted.clone(), asked),
            forgery("batch-work", work.clone(), submitted.clone(), asked),
            forgery("batch-closing", json!({"closing": "Cancel"}), submitted.clone(), asked),
            forgery("intent", work.clone(), intended, Some(("AwaitingAnswer", ""))),
            forgery("file", json!({}), json!({"state": "Intended", "fileID": file, "postBy": 1}), None),
            forgery("revoke", work.clone(), revoking, not_deleted),
            forgery("send", json!({}), refused, not_sent),
            forgery("owner", json!({"owner": theirs["owner"]}), submitted.clone(), in_use),
            forgery("ghost", json!({"owner": ghost}), submitted, in_use),
            forgery("theirs", theirs.clone(), json!({}), in_use),
            forgery("settled", work, settled, gone),
        ]
    }

    /// The tenant's journal of a job, as it lies there.
    async fn read(&self, name: &str, in_map: bool) -> Value {
        let tenant = &self.stage.tenant;
        let maps: Api<ConfigMap> = Api::namespaced(tenant.client.clone(), &tenant.namespace);
        let text = match in_map {
            false => tenant.get(&format!("out/{name}/_batchjob/journal.json")).await.unwrap(),
            true => maps.get(name).await.unwrap().data.unwrap()["_batchjob.journal.json"].clone(),
        };
        serde_json::from_str(&text).unwrap()
    }

    async fn write(&self, name: &str, in_map: bool, journal: Value) {
        let tenant = &self.stage.tenant;
        let text = journal.to_string();
        if !in_map {
            return tenant.put(&format!("out/{name}/_batchjob/journal.json"), text).await;
        }
        let patch = json!({"data": {"_batchjob.journal.json": text}}).to_string();
        tenant.kubectl(&["patch", "configmap", name, "--type=merge", "-p", &patch]);
    }

    /// A job for each forgery, in a bucket or in a ConfigMap; forged once its batch runs, told of, and deleted.
    async fn forge(&self, in_map: bool) {
        let (stage, tenant) = (&self.stage, &self.stage.tenant);
        let forgeries = self.forgeries();
        for Forgery { what, .. } in &forgeries {
            self.apply(what, in_map.then(|| json!({"configMap": {"name": what}})));
        }
        for Forgery { what, .. } in &forgeries {
            tenant.wait_condition(what, "Submitted", "True", 60).await;
        }
        for Forgery { what, top, attempt, .. } in &forgeries {
            let mut journal = self.read(what, in_map).await;
            put(&mut journal, top);
            if attempt != &json!({}) {
                let forged = &mut journal["shards"]["open"]["0"]["attempt"];
                for gone in ["batchID", "at"] {
                    forged.as_object_mut().unwrap().remove(gone);
                }
                put(forged, attempt);
            }
            self.write(what, in_map, journal).await;
        }
        for Forgery { what, told, .. } in &forgeries {
            if let Some((reason, words)) = told {
                stage.told(what, reason, words).await;
            }
        }
        // The tenant's own batch came first and is recorded again; the neighbour's, of the same forged intent, is left alone.
        tenant
            .wait_job("the search is over", "file", 60, |job| {
                job.status.as_ref().is_some_and(|s| s.batches.iter().any(|b| b.provider_id.is_some()))
            })
            .await;
        stage.assert_untouched().await;
        // Deleting what names the neighbour's batch cancels nothing of it.
        tenant.kubectl(&["delete", "bjob", "batch", "intent", "--wait=false"]);
        self.assert_left_alone().await;
    }

    /// After the tenant's operator has gone round some more.
    async fn assert_left_alone(&self) {
        let operator = self.stage.tenant.operator.as_ref().unwrap();
        let polled = || operator.metric("batchjob_steps_total{step=\"Poll\"}");
        let seen = polled().await;
        eventually("it polls on", 30, || async { (polled().await >= seen + 8.0).then_some(()) }).await;
        self.stage.assert_untouched().await;
    }
}

fn put(into: &mut Value, what: &Value) {
    for (key, value) in what.as_object().unwrap() {
        into[key] = value.clone();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_journal_in_a_bucket_reaches_nothing_of_a_neighbour_in_the_same_account() {
    Forger::set("forged").await.forge(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_journal_in_a_config_map_reaches_nothing_of_a_neighbour_in_the_same_account() {
    Forger::set("forged-map").await.forge(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_or_a_status_that_names_a_neighbours_batch_reaches_nothing_of_it() {
    let forger = Forger::set("forged-answer").await;
    let (stage, tenant, batch) = (&forger.stage, &forger.stage.tenant, &forger.stage.batch["id"]);
    stage.neighbour.sim.fault(json!({"point": "create_batch", "action": "drop_request"})).await;
    forger.apply("adopt", None);
    let job = tenant.wait_condition("adopt", "Held", "True", 60).await;
    let hold = &job.status.as_ref().unwrap().holds[0];
    let answer = format!("llmbatch.dev/resolve={}=adopt:{}", hold.id, batch.as_str().unwrap());
    tenant.kubectl(&["annotate", "bjob", "adopt", &answer]);
    stage.told("adopt", "AwaitingAnswer", NOT_OURS).await;
    // Status that names it, of a job that is deleted without its journal.
    forger.apply("status", None);
    tenant.wait_condition("status", "Submitted", "True", 60).await;
    let named = json!([{"name": "00000-1", "state": "Submitted", "requests": 3, "providerID": batch}]);
    let patch = json!({"status": {"batches": named, "work": {"id": stage.journal["workID"]}}});
    tenant.delete("out/status/_batchjob/journal.json").await;
    tenant.kubectl(&["patch", "bjob", "status", "--subresource=status", "--type=merge", "-p", &patch.to_string()]);
    tenant.kubectl(&["delete", "bjob", "status", "--wait=false"]);
    tenant.wait_gone("status").await;
    stage.assert_untouched().await;
}
