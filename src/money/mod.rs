//! Money: prices of tokens, and amounts of USD. Pure, without clock, I/O or async.

mod estimate;
mod prices;
mod usd;

pub use estimate::TokenEstimate;
pub use prices::{Cost, LongContextPrices, PriceList, Prices, Rates};
pub use usd::Usd;
