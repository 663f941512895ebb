//! Rows by id, in the order they were made.

use std::collections::{BTreeMap, HashMap};

/// Rows with ids that can be paged through in both directions.
#[derive(Debug)]
pub struct Table<T> {
    made: u64,
    rows: BTreeMap<u64, T>,
    places: HashMap<String, u64>,
}

/// Which end of a list comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    Descending,
    /// Oldest first.
    Ascending,
}

/// A part of a list.
#[derive(Debug)]
pub struct Page<'a, T> {
    /// The rows.
    pub rows: Vec<&'a T>,
    /// Whether another page would hold at least one row.
    pub has_more: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { made: 0, rows: BTreeMap::new(), places: HashMap::new() }
    }
}

impl<T> Table<T> {
    /// Adds a row after all others. The id must be new.
    pub fn insert(&mut self, id: String, row: T) {
        self.rows.insert(self.made, row);
        self.places.insert(id, self.made);
        self.made += 1;
    }

    /// The row of an id.
    pub fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(self.places.get(id)?)
    }

    /// The row of an id, to be changed.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.rows.get_mut(self.places.get(id)?)
    }

    /// Takes a row out.
    pub fn remove(&mut self, id: &str) -> Option<T> {
        self.rows.remove(&self.places.remove(id)?)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Every row, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.rows.values()
    }

    /// Up to `limit` rows to keep that follow `after` in this order; `None` when `after` is not
    /// the id of such a row.
    pub fn page(
        &self,
        order: Order,
        after: Option<&str>,
        limit: usize,
        keep: impl Fn(&T) -> bool,
    ) -> Option<Page<'_, T>> {
        let place = match after {
            None => None,
            Some(id) => {
                self.get(id).filter(|row| keep(row))?;
                self.places.get(id).copied()
            }
        };
        let mut rows: Vec<&T> = match order {
            Order::Descending => {
                let older = self.rows.range(..place.unwrap_or(u64::MAX));
                older.rev().map(|(_, row)| row).filter(|row| keep(row)).take(limit + 1).collect()
            }
            Order::Ascending => {
                let newer = self.rows.range(place.map_or(0, |place| place + 1)..);
                newer.map(|(_, row)| row).filter(|row| keep(row)).take(limit + 1).collect()
            }
        };
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Some(Page { rows, has_more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<u32> {
        let mut table = Table::default();
        for number in 0..5 {
            table.insert(number.to_string(), number);
        }
        table
    }

    fn page(order: Order, after: Option<&str>) -> Option<(Vec<u32>, bool)> {
        let table = table();
        let page = table.page(order, after, 2, |number| number % 2 == 0)?;
        Some((page.rows.into_iter().copied().collect(), page.has_more))
    }

    #[test]
    fn pages_follow_each_other_in_both_directions() {
        assert_eq!(page(Order::Descending, None), Some((vec![4, 2], true)));
        assert_eq!(page(Order::Descending, Some("2")), Some((vec![0], false)));
        assert_eq!(page(Order::Ascending, None), Some((vec![0, 2], true)));
        assert_eq!(page(Order::Ascending, Some("2")), Some((vec![4], false)));
    }

    #[test]
    fn a_page_after_a_row_that_is_not_shown_is_refused() {
        assert_eq!(page(Order::Descending, Some("1")), None);
        assert_eq!(page(Order::Descending, Some("9")), None);
    }
}
