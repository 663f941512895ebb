//! Money: prices of tokens, and amounts of USD. Pure, without clock, I/O or async.

mod estimate;
pub mod for_people;
mod models;
mod price_list;
mod prices;
mod table;
mod usd;

pub use estimate::TokenEstimate;
pub use price_list::{PriceList, Priced, TokenLimits};
pub use prices::{Cost, LongContextPrices, Prices, Rates};
pub use table::PriceTable;
pub use usd::Usd;
