//! The API from outside: the whole router over stores in memory, over sockets, and as a program.

mod again;
mod bad_body;
mod bad_query;
mod callbacks;
mod fuzz;
mod jobs;
mod outages;
mod program;
mod routes;
mod search;
mod socket;
mod support;
mod ten_thousand;
mod uploads;
