//! Amounts of USD.

use std::fmt;

use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest amount that is read, in USD.
const LIMIT: i64 = 1_000_000_000_000;
/// Decimal places of an amount in status and manifest.
const PLACES: u32 = 6;

/// An amount of USD, never negative. Sums and products of prices and tokens are exact: a price has at most six decimal places, a token
/// costs a millionth of it, and a discount is a whole percentage. Rounding happens where an amount is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(Decimal);

impl Usd {
    /// No money.
    pub const ZERO: Usd = Usd(Decimal::ZERO);
    /// One dollar.
    pub const ONE: Usd = Usd(Decimal::ONE);

    /// Reads an amount such as `0.25`.
    ///
    /// # Errors
    /// If it is not a decimal number from 0 to a trillion, without an exponent.
    pub fn parse(text: &str) -> Result<Usd, String> {
        let fault =
            || format!("'{}' is not an amount of USD such as '0.25'", text.chars().take(40).collect::<String>());
        let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let amount = Decimal::from_str_exact(text).ok().filter(|_| is_plain && !text.is_empty()).ok_or_else(fault)?;
        (amount <= Decimal::from(LIMIT)).then_some(Usd(amount.normalize())).ok_or_else(fault)
    }

    /// Returns the amount for so many tokens, if this is the price of a million.
    pub fn for_tokens(self, tokens: i64) -> Usd {
        let millions = Decimal::from_i128_with_scale(i128::from(tokens.max(0)), 6);
        Usd(self.0.saturating_mul(millions).min(Decimal::from(LIMIT)))
    }

    /// Returns the amount, less a discount of 0 to 100 percent.
    pub fn less_percent(self, percent: i64) -> Usd {
        let rest = Decimal::from_i128_with_scale(i128::from(100 - percent.clamp(0, 100)), 2);
        Usd(self.0.saturating_mul(rest))
    }

    /// Returns the difference; zero if `other` is larger.
    pub fn saturating_sub(self, other: Usd) -> Usd {
        Usd(self.0.saturating_sub(other.0).max(Decimal::ZERO))
    }

    /// Returns the amount times `part` of `whole`; zero if `whole` is.
    pub fn share(self, part: i64, whole: i64) -> Usd {
        let product = self.0.saturating_mul(Decimal::from(part.max(0)));
        Usd(product.checked_div(Decimal::from(whole.max(0))).unwrap_or_default())
    }

    /// Returns the nearest floating-point number, for metrics alone.
    pub fn to_f64(self) -> f64 {
        self.0.to_f64().unwrap_or_default()
    }

    /// Returns whether it is no money.
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    /// Returns the amount in whole cents, rounded up, such as `26.07`.
    pub fn rounded_up(self) -> String {
        let mut cents = self.0.round_dp_with_strategy(2, RoundingStrategy::ToPositiveInfinity);
        cents.rescale(2);
        cents.to_string()
    }

    /// Returns the amount with six decimal places, rounded half up, for programs; without zeros at the end beyond cents.
    pub fn rounded(self) -> String {
        let mut rounded = self.0.round_dp_with_strategy(PLACES, RoundingStrategy::MidpointAwayFromZero).normalize();
        if rounded.scale() < 2 {
            rounded.rescale(2);
        }
        rounded.to_string()
    }
}

/// For people: `$3.12`, rounded half up to cents; an amount under ten cents has two significant digits, such as `$0.0042`.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = match self.0 {
            zero if zero.is_zero() => 2,
            few if few < Decimal::new(1, 1) => {
                // 0.05 has one zero behind the point.
                let zeros = (0..20).take_while(|n| few < Decimal::new(1, n + 1)).count();
                u32::try_from(zeros).unwrap_or(2) + 2
            }
            _ => 2,
        };
        let mut rounded = self.0.round_dp_with_strategy(places.min(9), RoundingStrategy::MidpointAwayFromZero);
        rounded.rescale(places.min(9));
        write!(f, "${rounded}")
    }
}

impl std::ops::Add for Usd {
    type Output = Usd;

    fn add(self, other: Usd) -> Usd {
        // A larger amount would be written and could not be read.
        Usd(self.0.saturating_add(other.0).min(Decimal::from(LIMIT)))
    }
}

impl std::ops::AddAssign for Usd {
    fn add_assign(&mut self, other: Usd) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Usd {
    fn sum<I: Iterator<Item = Usd>>(amounts: I) -> Usd {
        amounts.fold(Usd::ZERO, |sum, amount| sum + amount)
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.normalize())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
        Usd::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_and_anything_else_is_refused() {
        for amount in ["0", "0.25", "12", "0.000001", "1000000000000"] {
            assert_eq!(serde_json::to_value(Usd::parse(amount).unwrap()).unwrap(), amount);
        }
        for fault in ["", "-1", "+1", "1e3", "0,25", "$1", "1000000000001", " 1", "NaN", ".", "1_000"] {
            assert!(Usd::parse(fault).is_err(), "{fault}");
        }
    }

    #[test]
    fn people_read_cents_and_two_digits_of_less_than_ten_cents() {
        for (amount, shown) in [
            ("0", "$0.00"),
            ("3.124", "$3.12"),
            ("3.125", "$3.13"),
            ("0.1", "$0.10"),
            ("0.0999", "$0.100"),
            ("0.05", "$0.050"),
            ("0.0042", "$0.0042"),
            ("0.00000001", "$0.000000010"),
            ("1234.5", "$1234.50"),
        ] {
            assert_eq!(Usd::parse(amount).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_the_schema_takes_for_an_amount_is_read() {
        for amount in ["0", "25", "25.00", "0.000001", "999999999999.999999"] {
            assert!(Usd::parse(amount).is_ok(), "{amount}");
        }
    }

    #[test]
    fn an_amount_that_is_to_suffice_is_rounded_up_to_cents() {
        for (amount, shown) in [("26", "26.00"), ("26.061", "26.07"), ("26.07", "26.07"), ("0.000001", "0.01")] {
            assert_eq!(Usd::parse(amount).unwrap().rounded_up(), shown);
        }
    }

    /// A journal with an amount that cannot be read would be lost.
    #[test]
    fn what_is_added_up_can_be_read_whatever_a_server_reports() {
        let most = Usd::parse("1000000000000").unwrap();
        for amount in [most.for_tokens(i64::MAX), most + most, [most, most].into_iter().sum(), most.share(1, 3)] {
            let written = serde_json::to_string(&amount).unwrap();
            assert_eq!(serde_json::from_str::<Usd>(&written).unwrap(), amount, "{written}");
        }
    }

    #[test]
    fn a_million_tokens_cost_their_price_and_one_token_a_millionth() {
        let price = Usd::parse("0.25").unwrap();
        assert_eq!(price.for_tokens(1_000_000), price);
        assert_eq!(price.for_tokens(1).less_percent(50), Usd::parse("0.000000125").unwrap());
        assert_eq!(price.for_tokens(1).rounded(), "0.00");
        assert_eq!(price.for_tokens(5).rounded(), "0.000001");
    }
}
