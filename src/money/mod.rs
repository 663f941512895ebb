//! Money: prices of tokens, amounts of USD, and budgets. Pure, without clock, I/O or async.

mod estimate;
pub mod for_people;
mod ledger;
mod models;
mod price_list;
mod prices;
mod table;
mod terms;
mod usd;

pub use estimate::TokenEstimate;
pub use ledger::{
    Budget, BudgetUse, Ledger, Reservation, Settlement, Sums, Unbilled, Unreserved, day_of, period_end, shard_key,
};
pub use price_list::{PriceList, Priced, TokenLimits};
pub use prices::{Cost, LongContextPrices, Prices, Rates};
pub use table::PriceTable;
pub use terms::{Billed, LongRates, Terms};
pub use usd::Usd;
