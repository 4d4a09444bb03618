//! The service: start order, supervision, stop order.
