//! One spelling for each JSON value.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::overlaps::Short;

/// The value without spaces and with every object's keys in the order of their bytes; numbers and
/// strings as `serde_json` writes them.
pub fn to_vec(value: &Value) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    write(&mut out, value)?;
    Ok(out)
}

fn write(out: &mut Vec<u8>, value: &Value) -> serde_json::Result<()> {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                separate(out, index);
                write(out, item)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            // The map's own order depends on how serde_json was built.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, field)) in fields.into_iter().enumerate() {
                separate(out, index);
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                write(out, field)?;
            }
            out.push(b'}');
        }
        scalar => serde_json::to_writer(out, scalar)?,
    }
    Ok(())
}

fn separate(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

/// The start of the SHA-256 of a value's one spelling; of its bytes if they are JSON only at first
/// sight.
pub fn short(raw: &RawValue) -> Short {
    let spelled = serde_json::from_str(raw.get()).and_then(|value| to_vec(&value));
    let bytes = spelled.unwrap_or_else(|_| raw.get().as_bytes().to_vec());
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    hash.as_ref().iter().take(size_of::<Short>()).fold(0, |short, byte| (short << 8) | Short::from(*byte))
}

/// The SHA-256 of some bytes in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_spaces_do_not_matter_but_values_do() -> serde_json::Result<()> {
        let spelled = |text: &str| to_vec(&serde_json::from_str(text)?);
        let one = spelled(r#"{"b": [1, {"d": "é\"", "c": null}], "a": 1.50}"#)?;
        assert_eq!(one, r#"{"a":1.5,"b":[1,{"c":null,"d":"é\""}]}"#.as_bytes());
        assert_eq!(one, spelled(r#"{"a":1.5,"b":[1,{"c":null,"d":"\u00e9\""}]}"#)?);
        assert_ne!(one, spelled(r#"{"a":1.5,"b":[{"c":null,"d":"é\""},1]}"#)?);
        Ok(())
    }

    #[test]
    fn the_hash_is_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
    }
}
