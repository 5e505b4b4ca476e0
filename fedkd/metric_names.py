"""Names of every number that is emitted, `area/what`. Code emits these; sinks, plots and reports read them."""

from __future__ import annotations

# How well the clients do. Lists are ordered by client id; a client that failed has null.
SCORE_MEAN = "score/mean"
SCORE_PER_CLIENT = "score/per_client"
SCORE_NAME = "score/name"  # what the score is; absent where it is accuracy, which has names of its own
ACC_MEAN = "acc/mean"
ACC_PER_CLIENT = "acc/per_client"
FIGURES_PREFIX = "figures/"  # further figures of an evaluation, averaged over the clients that were evaluated
CONFUSION = "eval/confusion"  # per client a (classes, classes) matrix of counts: rows true, columns predicted
SERVER_ACC = "server/acc"
TRAIN_PREFIX = "train/"  # what a trainer reports, averaged over the clients that answered

# What crossed the wire in this round, all clients together.
UPLINK_BYTES = "wire/uplink_bytes"
DOWNLINK_BYTES = "wire/downlink_bytes"
UPLINK_PER_CLIENT = "wire/uplink_bytes_per_client"
HEADER_BYTES = "wire/header_bytes"  # framing: field names, shapes, digests
SELECTED_ROWS = "wire/selected_rows"  # rows of the good shares
UNSELECTED_BYTES = "wire/unselected_bytes"  # what these shares would have taken with every row that was asked for
SETUP_UPLINK_BYTES = "wire/setup_uplink_bytes"
SETUP_DOWNLINK_BYTES = "wire/setup_downlink_bytes"

# Who answered.
GOOD_REPLIES = "replies/good"
REJECTED = "replies/rejected"
FAILURES = "replies/failures"

# The filter. Own and foreign need labels of the proxy and exist only where diagnostics are allowed.
ACCEPT_RATE = "filter/accept_rate"
ACCEPT_RATE_OWN = "filter/accept_rate_own"
ACCEPT_RATE_FOREIGN = "filter/accept_rate_foreign"
ACCEPT_BY_CLASS = "filter/accept_by_class"  # (clients, classes) shares; null where a class has no proxy sample
SCORE_BINS = "filter/score_bins"  # edges of the histograms below
SCORE_HOLDOUT = "filter/score_holdout"  # per client: counts of the scores of its own hold-out
SCORE_PROXY = "filter/score_proxy"  # per client: counts of the scores of others' proxy samples
THRESHOLD = "filter/threshold"  # per client

# The proxy set and what the server made of the shares.
PROXY_SAMPLES = "proxy/samples"
COVERAGE = "proxy/coverage"  # share of the asked rows that at least one client spoke for
VOTERS = "proxy/voters_mean"
PURITY = "proxy/purity"  # share of votes cast by a client that owns the row's class
TEACHER_ACC = "teacher/acc"
SELECTED = "proxy/selected"  # share of the aggregated rows that the server's selector keeps
TEACHER_ENTROPY = "teacher/entropy"  # nats

# Counters that clients send along and the server sums: tokens of a draft that a target took, and did not.
ACCEPTANCE_ACCEPTED = "acceptance/accepted"
ACCEPTANCE_REJECTED = "acceptance/rejected"
ACCEPTANCE_RATE = "acceptance/rate"

# The partition.
CLASS_COUNTS = "partition/class_counts"  # (clients, classes) private training samples
SKEW = "partition/skew"

# Clock readings go to timings.jsonl, never beside the numbers above.
SECONDS_TRAIN = "seconds/train"
SECONDS_FILTER = "seconds/filter"
SECONDS_AGGREGATE = "seconds/aggregate"
SECONDS_ROUND = "seconds/round"
PEAK_RSS_BYTES = "memory/peak_rss_bytes"
