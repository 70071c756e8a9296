//! The API from outside: the whole router over stores in memory, over sockets, and as a program.

mod again;
mod api_keys;
mod bad_body;
mod bad_query;
mod callbacks;
mod edge;
mod events;
mod forms;
mod fuzz;
mod gateway;
mod issuer;
mod jobs;
mod limits;
mod openapi;
mod outages;
mod program;
mod routes;
mod search;
mod socket;
mod support;
mod ten_thousand;
mod tokens;
mod two_users;
mod uploads;
mod waiting;
