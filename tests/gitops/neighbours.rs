//! Argo CD, Flux and kstatus see every state for what it is.

use serde_json::{Value, json};

use crate::health::{Answer, Question, ask};
use crate::states::{self, State};
use crate::tools::{objects, read};

const ARGO: &str = "deploy/gitops/argocd/argocd-cm.yaml";
const FLUX: &str = "deploy/gitops/flux/health-checks.yaml";

/// A key of Argo CD's ConfigMap.
fn customization(of: &str, kind: &str) -> String {
    let config = objects(&read(ARGO)).remove(0);
    let key = format!("resource.customizations.{of}.llmbatch.dev_{kind}");
    config["data"][&key].as_str().unwrap_or_else(|| panic!("{ARGO} has no {key}")).into()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// Flux' expressions for a kind.
fn expressions(kind: &str) -> Value {
    let kustomization = objects(&read(FLUX)).remove(0);
    let all = kustomization["spec"]["healthCheckExprs"].as_array().unwrap().clone();
    all.into_iter().find(|e| e["kind"] == kind && e["apiVersion"] == "llmbatch.dev/v1alpha1").unwrap()
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

fn all_states() -> Vec<State> {
    [states::batch_jobs(), states::cron_batch_jobs(), states::providers()].into_iter().flatten().collect()
}

fn judged(states: &[State]) -> Vec<Answer> {
    let question = |state: &State| Question {
        object: state.object.clone(),
        lua: Some(customization("health", kind(&state.object))),
        flux: Some(expressions(kind(&state.object))),
    };
    ask(&states.iter().map(question).collect::<Vec<_>>())
}

#[test]
fn every_state_of_every_kind_is_healthy_failed_or_neither_as_it_should_be() {
    let states = all_states();
    assert!(states.len() > 120, "{} states", states.len());
    let mut wrong = vec![];
    for (state, answer) in states.iter().zip(judged(&states)) {
        let argo = answer.returned["status"].as_str().unwrap_or_default();
        let (said, wanted) = ([&*answer.kstatus, argo, &*answer.flux], [state.kstatus, state.argo, state.flux]);
        if said != wanted {
            wrong.push(format!("{} {}: {said:?}, not {wanted:?}", kind(&state.object), state.name));
        }
        assert!(answer.returned["message"].as_str().is_some_and(|m| m.len() > 2), "{}: {answer:?}", state.name);
    }
    assert!(wrong.is_empty(), "kstatus, Argo CD, Flux:\n{}", wrong.join("\n"));
}

#[test]
fn argo_cd_says_why_a_job_is_where_it_is() {
    let messages: Vec<String> = states::batch_jobs()
        .iter()
        .zip(judged(&states::batch_jobs()))
        .filter(|(state, _)| ["unseen", "held", "InProgress", "InvalidInput, nothing paid"].contains(&&*state.name))
        .map(|(state, answer)| format!("{}: {}", state.name, answer.returned["message"].as_str().unwrap()))
        .collect();
    insta::assert_snapshot!("messages", messages.join("\n"));
}

/// What an action returns for an object, and whether discovery offers it.
fn actions(object: &Value) -> Vec<(String, bool, Value)> {
    let actions = yaml(&customization("actions", kind(object)));
    let run = |lua: &Value| {
        let lua = Some(lua.as_str().unwrap().to_string());
        ask(&[Question { object: object.clone(), lua, flux: None }]).remove(0).returned
    };
    let offered = run(&actions["discovery.lua"]);
    let defined = actions["definitions"].as_array().unwrap();
    assert_eq!(defined.len(), offered.as_object().unwrap().len(), "{offered}");
    let action = |action: &Value| {
        let name = action["name"].as_str().unwrap();
        (name.to_string(), offered[name]["disabled"] == false, run(&action["action.lua"]))
    };
    defined.iter().map(action).collect()
}

#[test]
fn buttons_change_one_field_and_are_there_while_they_do_something() {
    let running = states::at_the_provider(5);
    let mut suspended = running.clone();
    suspended["spec"]["suspend"] = true.into();
    let (mut draining, mut stopping) = (running.clone(), running.clone());
    draining["spec"]["stopPolicy"] = "Drain".into();
    stopping["spec"]["stopPolicy"] = "Cancel".into();
    let mut unset = running.clone();
    unset["spec"].as_object_mut().unwrap().remove("suspend");
    unset.as_object_mut().unwrap().remove("status");
    let finished = states::batch_jobs().into_iter().find(|state| state.name == "AllSucceeded").unwrap().object;
    let mut finished_while_suspended = finished.clone();
    finished_while_suspended["spec"]["suspend"] = true.into();
    let cron = states::cron_batch_jobs().remove(0).object;
    let mut suspended_cron = cron.clone();
    suspended_cron["spec"]["suspend"] = true.into();
    for (object, offered) in [
        (&running, vec!["suspend", "drain", "cancel"]),
        (&suspended, vec!["resume", "drain", "cancel"]),
        (&unset, vec!["suspend", "drain", "cancel"]),
        (&draining, vec!["suspend", "cancel"]),
        (&stopping, vec!["suspend"]),
        (&finished, vec![]),
        (&finished_while_suspended, vec![]),
        (&cron, vec!["suspend"]),
        (&suspended_cron, vec!["resume"]),
    ] {
        let actions = actions(object);
        let enabled: Vec<&str> = actions.iter().filter(|(_, enabled, _)| *enabled).map(|(name, ..)| &**name).collect();
        assert_eq!(enabled, offered, "{object}");
        for (name, _, returned) in actions {
            let mut wanted = object.clone();
            match name.as_str() {
                "drain" => wanted["spec"]["stopPolicy"] = "Drain".into(),
                "cancel" => wanted["spec"]["stopPolicy"] = "Cancel".into(),
                _ => wanted["spec"]["suspend"] = (name == "suspend").into(),
            }
            assert_eq!(returned["spec"], wanted["spec"], "{name}");
            assert_eq!(returned["metadata"], wanted["metadata"], "{name}");
        }
    }
}

#[test]
fn progress_at_the_provider_does_not_refresh_an_application_and_what_health_is_read_from_does() {
    let ignored = yaml(&customization("ignoreResourceUpdates", "BatchJob"))["jsonPointers"].clone();
    let seen = |mut object: Value| {
        for pointer in ignored.as_array().unwrap().iter().map(|pointer| pointer.as_str().unwrap()) {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
        }
        object
    };
    let (before, mut after) = (states::at_the_provider(2), states::at_the_provider(7));
    assert!(before != after);
    let message = &mut after["status"]["notifications"][0];
    assert_eq!((&message["event"], &message["state"]), (&json!("Started"), &json!("Pending")));
    message["state"] = "Delivered".into();
    message["attempts"] = 1.into();
    assert_eq!(seen(before.clone()), seen(after));
    for state in states::batch_jobs().into_iter().filter(|state| state.name != "unseen") {
        for field in ["conditions", "outcome", "observedGeneration"] {
            assert_eq!(seen(state.object.clone())["status"][field], state.object["status"][field], "{}", state.name);
        }
    }
}
