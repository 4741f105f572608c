//! The tool, driven as people and scripts drive it: the binary, over real servers.

mod changes;
mod dashboard;
mod doctor;
mod dynamodb;
mod grpc;
mod journey;
mod long_work;
mod naming;
mod owner;
mod pages;
mod probe;
mod tool;
