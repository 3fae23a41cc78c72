//! Real repositories, the real `git`, and servers that the tests start on free ports.

#![allow(missing_docs, clippy::unwrap_used)]

mod access;
mod checkout;
mod helper;
mod host;
mod hostile;
mod https;
mod kits;
mod read;
mod repository;
mod resolve;
mod ssh;
mod unconfined;
mod world;
