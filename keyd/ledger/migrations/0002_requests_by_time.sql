-- Request ids are forgotten in the order of their time (keyd/ledger/request_ids.py).

CREATE INDEX requests_by_time ON requests (at);
