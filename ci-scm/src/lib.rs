//! Forges for an embeddable CI SDK: permissions, provenance, checkout.
