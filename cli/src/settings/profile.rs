//! Profiles: what is the default for a kind of machine.

use super::keys::{Key, Origin, Value, Values};

/// Names a kind of machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Profile {
    /// A developer's machine, which is there for days.
    #[default]
    Office,
    /// A runner of continuous integration: what its job does not ask for is not fetched for it.
    Ci,
}

impl Profile {
    /// Reads a profile's name.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let profiles = [Self::Office, Self::Ci];
        let named = profiles.into_iter().find(|profile| profile.name() == text.trim());
        named.ok_or_else(|| "it is `office` or `ci`".to_owned())
    }

    /// Returns the profile's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Office => "office",
            Self::Ci => "ci",
        }
    }

    /// Puts its defaults below all that was given.
    pub(super) fn underlay(self, values: &mut Values) {
        let defaults = match self {
            Self::Office => &[][..],
            Self::Ci => &[(Key::Prefetch, "asked")],
        };
        for (key, value) in defaults {
            let value = Value::Text((*value).to_owned());
            values.entry(*key).or_insert((value, Origin::Profile(self.name())));
        }
    }
}
