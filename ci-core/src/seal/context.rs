//! Where sealed content belongs.

/// Where sealed content belongs: a list of fields, each with its length in front, so that no two lists look
/// the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context(Vec<u8>);

impl Context {
    /// The context of things of `kind`.
    pub fn new(kind: &str) -> Self {
        Self(Vec::new()).field(kind)
    }

    /// Adds a field.
    pub fn field(mut self, field: impl AsRef<[u8]>) -> Self {
        let field = field.as_ref();
        self.0.extend_from_slice(&(field.len() as u64).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    /// The encoded list.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
