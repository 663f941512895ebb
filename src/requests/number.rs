//! The canonical spelling of a number, which its request is known by, and the syntax of numbers.

use std::borrow::Cow;

use serde_json::Value;

/// Digits up to which an integer surely keeps them all in 64 bits.
const DIGITS: usize = 18;
/// Digits up to which a 64-bit float surely keeps a fraction.
const FLOAT_DIGITS: usize = 15;

/// Returns the spelling that a JSON number is known by; None if it is not a JSON number, or is beyond all 64-bit
/// floats. Equal numbers have the same spelling, except that an integer and a fraction differ: `1` and `1.0` are two.
///
/// A number that a 64-bit integer or float holds exactly is spelled as `serde_json` writes it, in every version of the
/// hash. Other numbers are spelled with all of their digits and an exponent: two that differ in any digit are two.
pub fn spelled(number: &str) -> Option<Cow<'_, str>> {
    if keeps_its_digits(number) {
        return Some(Cow::Borrowed(number));
    }
    let is_bare = number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    let read = serde_json::from_str::<Value>(number).ok().filter(|value| is_bare && value.is_number())?;
    let held = match read.is_f64() {
        // serde_json's own float may be off by one in the last digit.
        true => Value::from(number.parse::<f64>().ok().filter(|float| float.is_finite())?),
        false => read,
    };
    let (held, written) = (held.to_string(), Decimal::of(number));
    Some(Cow::Owned(if Decimal::of(&held) == written { held } else { written.spelled() }))
}

/// Returns whether `serde_json` surely writes a number as it reads it: an integer with few digits other than -0, or a fraction
/// of at least 0.1 with few digits and no zero at its end.
fn keeps_its_digits(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let (whole, fraction) = match digits.split_once('.') {
        None => (digits, None),
        Some((whole, fraction)) => (whole, Some(fraction.as_bytes())),
    };
    let is_whole = match whole.as_bytes() {
        [b'0'] => fraction.is_some() || digits == number,
        [b'1'..=b'9', rest @ ..] => rest.len() < DIGITS && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_whole
        && fraction.is_none_or(|fraction| {
            let is_usual = match fraction {
                [b'0'] => whole != "0",
                [first, .., last] => (*first != b'0' || whole != "0") && *last != b'0',
                [only] => *only != b'0',
                [] => false,
            };
            is_usual && whole.len() + fraction.len() <= FLOAT_DIGITS && fraction.iter().all(u8::is_ascii_digit)
        })
}

/// A number by its value: digits without zeros at either end, times a power of ten. Zero has no digits.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a valid JSON number. All exponents of more than 18 digits count as the same.
    fn of(number: &str) -> Decimal {
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let far = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
        let exponent = exponent.parse::<i64>().unwrap_or(far).clamp(i64::MIN / 2, i64::MAX / 2);
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        let exponent = exponent + (all.len() - digits.len()) as i64 - fraction.len() as i64;
        match digits.trim_start_matches('0') {
            "" => Decimal { negative: false, digits: String::new(), exponent: 0 },
            digits => Decimal { negative, digits: digits.into(), exponent },
        }
    }

    fn spelled(&self) -> String {
        format!("{}{}e{}", if self.negative { "-" } else { "" }, self.digits, self.exponent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_that_no_float_holds_is_known_by_all_of_its_digits() {
        for (number, known) in [
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "18446744073709551616e0"),
            ("18446744073709551616.0", "18446744073709551616e0"),
            ("1844674407370955161600e-2", "18446744073709551616e0"),
            ("-12345678901234567890123", "-12345678901234567890123e0"),
            ("123456789.123456789", "123456789123456789e-9"),
            ("1e-400", "1e-400"),
            ("0e-99999999999999999999", "0.0"),
        ] {
            assert_eq!(spelled(number).as_deref(), Some(known), "{number}");
        }
    }

    #[test]
    fn a_number_that_a_float_holds_is_known_as_ever() {
        for (number, known) in [
            ("0", "0"),
            ("-0", "-0.0"),
            ("7", "7"),
            ("19.90", "19.9"),
            ("1e3", "1000.0"),
            ("1.0", "1.0"),
            ("0.1e1", "1.0"),
            ("1E-7", "1e-7"),
            ("0.1", "0.1"),
            ("0.0", "0.0"),
            ("-0.0", "-0.0"),
            ("-0.1", "-0.1"),
            ("10.0", "10.0"),
            ("1.05", "1.05"),
            ("0.05", "0.05"),
            ("0.00001", "0.00001"),
            ("123456789012345.0", "123456789012345.0"),
            ("99999999999999.9", "99999999999999.9"),
            ("1e308", "1e+308"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("100000000000000000000", "1e+20"),
        ] {
            assert_eq!(spelled(number).as_deref(), Some(known), "{number}");
        }
    }

    #[test]
    fn what_is_no_number_has_no_spelling() {
        for text in
            ["", "-", "+1", "01", ".5", "1.", "1e", "1e400", "-1e999", "NaN", "0x10", "1 ", "1,5", "true", "\"1\""]
        {
            assert_eq!(spelled(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn equal_numbers_of_one_kind_are_known_by_the_same(digits in "[1-9][0-9]{0,30}", zeros in 1..5usize) {
            let known = |number: &str| spelled(number).map(Cow::into_owned);
            let (zeros, exponent) = ("0".repeat(zeros), zeros);
            let plain = known(&format!("{digits}.0"));
            prop_assert_eq!(&known(&format!("{digits}.{zeros}")), &plain);
            prop_assert_eq!(&known(&format!("{digits}{zeros}e-{exponent}")), &plain);
        }

        /// The shortcut agrees with the comparison of values.
        #[test]
        fn digits_that_are_kept_are_those_of_the_value(number in "-?(0|[1-9][0-9]{0,19})(\\.[0-9]{1,17})?") {
            if keeps_its_digits(&number) {
                let value: Value = match number.contains('.') {
                    true => number.parse::<f64>().unwrap().into(),
                    false => serde_json::from_str(&number).unwrap(),
                };
                prop_assert_eq!(value.to_string(), number);
            }
        }

        #[test]
        fn numbers_that_differ_in_their_last_digit_are_known_by_different_ones(digits in "[1-9][0-9]{0,40}", a in 1..9u8) {
            let (a, b) = (format!("{digits}{a}"), format!("{digits}{}", a + 1));
            prop_assert_ne!(spelled(&a), spelled(&b));
            let (a, b) = (format!("-0.{a}"), format!("-0.{b}"));
            prop_assert_ne!(spelled(&a), spelled(&b));
        }
    }
}
