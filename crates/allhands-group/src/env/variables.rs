//! Where variables come from, and the numbers they hold.

use super::EnvError;

/// Reads a variable; `None` if it is not set or empty.
pub trait Variables {
    /// The value of `name`.
    fn value(&self, name: &str) -> Option<String>;
}

/// The variables of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Variables for ProcessEnvironment {
    fn value(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name).filter(|value| !value.is_empty())
    }
}

/// A number and the variable that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) variable: &'static str,
    pub(super) value: u32,
}

/// The value of `variable`, as a number.
pub(super) fn parse<T: std::str::FromStr>(
    variable: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<T, EnvError> {
    value.trim().parse().map_err(|_| EnvError::Value {
        variable,
        value: value.to_owned(),
        expected,
    })
}

/// The number in the first of `names` that is set.
pub(super) fn number(
    variables: &impl Variables,
    names: &[&'static str],
    expected: &'static str,
) -> Result<Option<Number>, EnvError> {
    for &variable in names {
        if let Some(value) = variables.value(variable) {
            let value = parse(variable, &value, expected)?;
            return Ok(Some(Number { variable, value }));
        }
    }
    Ok(None)
}

/// A rank in the first of `names` that is set.
pub(super) fn rank(
    variables: &impl Variables,
    names: &[&'static str],
) -> Result<Option<Number>, EnvError> {
    number(variables, names, "a rank: a whole number from 0")
}

/// A number of ranks in the first of `names` that is set.
pub(super) fn ranks(
    variables: &impl Variables,
    names: &[&'static str],
) -> Result<Option<Number>, EnvError> {
    number(variables, names, "a number of ranks")
}

/// How often a job was restarted, as `name` says; never, if it is not set.
pub(super) fn restarts(variables: &impl Variables, name: &'static str) -> Result<u32, EnvError> {
    Ok(number(variables, &[name], "a whole number")?.map_or(0, |restarts| restarts.value))
}

/// That `set` is set, but not what belongs to it.
pub(super) fn half(set: &[&'static str], missing: &[&'static str]) -> EnvError {
    EnvError::HalfSet { set: set.to_vec(), missing: missing.to_vec() }
}
