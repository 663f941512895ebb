//! Comparison of two looks at an object by age.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Returns true if `one` is an older look at an object than `other`, or if that is unknown. Versions of one resource are
/// numbers that grow (KEP-5504, Kubernetes 1.35; etcd's revisions ever since).
pub(crate) fn is_older(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    let number = |meta: &ObjectMeta| meta.resource_version.as_ref()?.parse::<u64>().ok();
    match (number(one), number(other)) {
        (Some(one), Some(other)) => one < other,
        _ => one.resource_version != other.resource_version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_an_unknown_form_counts_as_older() {
        let of = |version: &str| ObjectMeta { resource_version: Some(version.into()), ..Default::default() };
        assert!(is_older(&of("99"), &of("100")) && !is_older(&of("100"), &of("99")) && !is_older(&of("7"), &of("7")));
        assert!(is_older(&of("a"), &of("7")) && is_older(&of("7"), &of("a")) && !is_older(&of("a"), &of("a")));
    }
}
