//! Files that are good, and files that are not.

use super::*;

const LIMITS: Limits = Limits { requests: 3, bytes: 1000, enqueued: 3 };

fn line(id: &str, model: &str) -> String {
    format!(r#"{{"custom_id":"{id}","method":"POST","url":"/v1/responses","body":{{"model":"{model}"}}}}"#)
}

fn judged(content: &str) -> io::Result<Result<Plan, BatchError>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("in");
    std::fs::write(&path, content)?;
    check(&path, (Vendor::OpenAi, Endpoint::Responses), LIMITS)
}

/// Code and line of what is wrong with a file.
fn fault(content: &str) -> io::Result<Option<(String, Option<u64>)>> {
    Ok(judged(content)?.err().map(|error| (error.code.into_owned(), error.line)))
}

#[test]
fn a_good_file_is_cut_at_its_line_ends() -> io::Result<()> {
    let (a, b) = (line("a", "m"), line("b", "m"));
    for content in [format!("{a}\n{b}"), format!("{a}\n{b}\n")] {
        let plan = judged(&content)?.map_err(|error| io::Error::other(error.message))?;
        assert_eq!(plan.model, "m");
        let lines: Vec<_> = plan
            .spans
            .iter()
            .map(|span| content.get(span.offset as usize..span.offset as usize + span.length))
            .collect();
        assert_eq!(lines, [Some(a.as_str()), Some(b.as_str())]);
    }
    Ok(())
}

#[test]
fn the_first_bad_line_is_named_with_its_code() -> io::Result<()> {
    let good = line("a", "m");
    let second = |bad: &str| fault(&format!("{good}\n{bad}\nworse\n"));
    for (bad, code) in [
        ("{", "invalid_json_line"),
        ("", "invalid_json_line"),
        ("[]", "invalid_json_line"),
        (r#"{"method":"POST"}"#, "missing_required_parameter"),
        (&line("a", "m"), "duplicate_custom_id"),
        (&line("b", "n"), "mismatched_model"),
        (&line("b", "m").replace("responses", "embeddings"), "invalid_url"),
        (&line("b", "m").replace("POST", "GET"), "invalid_request"),
        (&line("b", "m").replace("\"b\"", "7"), "invalid_request"),
        (&line("b", "m").replace("{\"model\":\"m\"}", "[]"), "invalid_request"),
        (&line("b", "m").replace("\"model\":\"m\"", ""), "invalid_request"),
        (&line("b", "m").replace("\"m\"", "\"m\",\"stream\":true"), "streaming_unsupported"),
    ] {
        assert_eq!(second(bad)?, Some((code.to_owned(), Some(2))), "{bad}");
    }
    Ok(())
}

#[test]
fn a_file_that_is_empty_or_too_large_is_refused_as_a_whole() -> io::Result<()> {
    assert_eq!(fault("")?, Some(("empty_file".to_owned(), None)));
    let many: Vec<_> = ["a", "b", "c", "d"].iter().map(|id| line(id, "m")).collect();
    assert_eq!(fault(&many.join("\n"))?, Some(("too_many_tasks".to_owned(), None)));
    let long = line(&"x".repeat(1000), "m");
    assert_eq!(fault(&long)?, Some(("file_too_large".to_owned(), None)));
    Ok(())
}
