//! Who is asking: every API key is an account of its own.

use std::collections::HashMap;
use std::sync::Arc;

/// The name of an account, safe to show (it is not the key).
pub type Account = Arc<str>;

/// The keys that are let in.
#[derive(Debug)]
pub struct Accounts {
    by_key: HashMap<String, Account>,
}

/// Why a set of keys is refused; never holds a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountsError {
    /// An empty key would let in everyone who sends an empty one.
    #[error("an API key is empty")]
    Empty,
    /// One key cannot be two accounts.
    #[error("an API key is given twice")]
    Repeated,
}

impl Accounts {
    /// Names the accounts `account-1`, `account-2` … in the keys' order.
    pub fn new(keys: Vec<String>) -> Result<Self, AccountsError> {
        let mut by_key = HashMap::new();
        for (index, key) in keys.into_iter().enumerate() {
            if key.is_empty() {
                return Err(AccountsError::Empty);
            }
            let name: Account = format!("account-{}", index + 1).into();
            if by_key.insert(key, name).is_some() {
                return Err(AccountsError::Repeated);
            }
        }
        Ok(Self { by_key })
    }

    /// The account of an `Authorization` header; without any keys everyone is `default`.
    pub fn of(&self, authorization: Option<&str>) -> Option<Account> {
        if self.by_key.is_empty() {
            return Some("default".into());
        }
        let (scheme, key) = authorization?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        self.by_key.get(key.trim()).cloned()
    }

    /// The account of an `api-key` header at Azure, which is there even where everyone is let in.
    pub fn of_header(&self, key: Option<&str>) -> Option<Account> {
        let key = key.filter(|key| !key.is_empty())?;
        match self.by_key.is_empty() {
            true => Some("default".into()),
            false => self.by_key.get(key).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_account_and_nothing_else_does() -> Result<(), AccountsError> {
        let accounts = Accounts::new(vec!["sk-a".into(), "sk-b".into()])?;
        assert_eq!(accounts.of(Some("Bearer sk-b")).as_deref(), Some("account-2"));
        assert_eq!(accounts.of(Some("Bearer sk-c")), None);
        assert_eq!(accounts.of(Some("Basic sk-a")), None);
        assert_eq!(accounts.of(None), None);
        assert_eq!(Accounts::new(vec![])?.of(None).as_deref(), Some("default"));
        Ok(())
    }

    #[test]
    fn empty_and_repeated_keys_are_refused() {
        let refusal = |keys: &[&str]| Accounts::new(keys.iter().map(|key| (*key).to_owned()).collect()).err();
        assert_eq!(refusal(&["sk-a", ""]), Some(AccountsError::Empty));
        assert_eq!(refusal(&["sk-a", "sk-a"]), Some(AccountsError::Repeated));
    }
}
