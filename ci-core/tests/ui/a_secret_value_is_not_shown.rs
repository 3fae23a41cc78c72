//! A secret's value cannot be printed, stored, copied or compared.

use ci_core::secret::SecretValue;

fn is_serialize<T: serde::Serialize>(_: &T) {}

fn is_copied<T: Clone>(_: &T) {}

fn is_eq<T: PartialEq>(_: &T) {}

fn main() {
    let value = SecretValue::new("hunter2");
    println!("{value}");
    is_serialize(&value);
    is_copied(&value);
    is_eq(&value);
}
