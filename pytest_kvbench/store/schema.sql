-- One group's database. Truth for everything that was asked and answered.
-- Version 8; `PRAGMA user_version` says which version a file has; another is refused.

CREATE TABLE experiments (          -- one row per run, in their order: what was declared, on which engine
    run_id           TEXT PRIMARY KEY,
    snapshot         TEXT NOT NULL,  -- JSON of the experiment
    fingerprint      TEXT NOT NULL,  -- JSON of the engine's parts; '{}' while unknown
    replicate_offset INTEGER NOT NULL,
    asks_again       INTEGER NOT NULL, -- whether it trusts no answer of runs before it
    command          TEXT NOT NULL,
    started_at       TEXT NOT NULL,
    finished_at      TEXT
) STRICT;

CREATE TABLE prepared (             -- at most one row: what was prepared and has not been run since
    snapshot TEXT NOT NULL           -- JSON of the experiment
) STRICT;

CREATE TABLE datasets (
    task             TEXT PRIMARY KEY,
    metric           TEXT NOT NULL,
    template_version TEXT NOT NULL,
    tokenizer        TEXT NOT NULL,
    selection        TEXT NOT NULL,  -- JSON: bins, seed and options the manifest was made with
    examples         INTEGER NOT NULL -- how many manifest_entries there are
) STRICT;

CREATE TABLE bins (
    task TEXT NOT NULL REFERENCES datasets(task) ON DELETE CASCADE,
    bin  INTEGER NOT NULL,
    low  INTEGER,
    high INTEGER,
    PRIMARY KEY (task, bin)
) STRICT, WITHOUT ROWID;

CREATE TABLE examples (
    example_id TEXT PRIMARY KEY,
    cluster    TEXT NOT NULL,
    question   TEXT NOT NULL,
    context    TEXT NOT NULL,
    answers    TEXT NOT NULL,        -- JSON
    meta       TEXT NOT NULL         -- JSON
) STRICT;

CREATE TABLE manifest_entries (
    task       TEXT NOT NULL,
    position   INTEGER NOT NULL,
    bin        INTEGER NOT NULL,
    example_id TEXT NOT NULL REFERENCES examples(example_id),
    tokens     INTEGER NOT NULL,
    prompt     TEXT NOT NULL,        -- sha256 of what the task alone sends: text, stops, length
    max_tokens INTEGER NOT NULL,     -- the task's own
    PRIMARY KEY (task, position),
    UNIQUE (task, example_id),
    FOREIGN KEY (task, bin) REFERENCES bins(task, bin) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE arms (
    arm_id                  TEXT PRIMARY KEY,
    engine                  TEXT NOT NULL,
    model                   TEXT NOT NULL,
    base_url                TEXT,           -- addresses declared for it; NULL: servers of the run
    policy                  TEXT NOT NULL,
    budget                  REAL NOT NULL,
    question_aware          INTEGER NOT NULL,
    params                  TEXT NOT NULL,  -- JSON
    sampling                TEXT NOT NULL,  -- JSON
    variant                 TEXT NOT NULL,
    prompt_template_version TEXT NOT NULL,
    fingerprint             TEXT NOT NULL,
    method                  TEXT NOT NULL CHECK (method IN ('', 'forced', 'free'))
                                            -- how distributions are compared; '': replies are
) STRICT;

CREATE TABLE requests (
    key        TEXT PRIMARY KEY,
    arm_id     TEXT NOT NULL REFERENCES arms(arm_id),
    task       TEXT NOT NULL,
    bin        INTEGER NOT NULL,
    example_id TEXT NOT NULL REFERENCES examples(example_id),
    replicate  INTEGER NOT NULL,
    aa         INTEGER NOT NULL,
    prompt     TEXT NOT NULL,        -- as in manifest_entries; the arm says what is put around it
    max_tokens INTEGER NOT NULL      -- what was asked for
) STRICT, WITHOUT ROWID;

CREATE TABLE answers (
    key           TEXT PRIMARY KEY REFERENCES requests(key),
    text          TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    reasoning     TEXT NOT NULL,      -- what the server kept apart from the text
    origin        TEXT NOT NULL CHECK (origin IN ('engine', 'shared-control')),
    run           INTEGER NOT NULL,  -- rowid of the last run that had begun when it came; 0: none
    created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT, WITHOUT ROWID;

CREATE TABLE telemetry (             -- seconds, tokens and bytes of an answer
    key               TEXT PRIMARY KEY REFERENCES answers(key),
    latency_s         REAL,           -- null: nobody waited for it
    ttft_s            REAL,
    prompt_tokens     INTEGER,
    completion_tokens INTEGER,
    achieved          REAL,
    kept_bytes        INTEGER,
    full_bytes        INTEGER,
    kept_tokens       REAL,
    cached_tokens     INTEGER,
    reasoning_tokens  INTEGER,        -- of the completion's
    arms_in_request   INTEGER NOT NULL,
    waited_s          REAL NOT NULL,  -- for a rate limit
    note              TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE divergences (           -- how far an arm's distributions are from the full cache's
    key     TEXT PRIMARY KEY REFERENCES answers(key),
    payload TEXT NOT NULL             -- JSON, position by position
) STRICT, WITHOUT ROWID;

CREATE TABLE failures (
    key        TEXT PRIMARY KEY REFERENCES requests(key),
    kind       TEXT NOT NULL CHECK (kind IN ('TIMEOUT', 'ENGINE_ERROR')),
    message    TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    run        INTEGER NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT, WITHOUT ROWID;

-- No request is both: an answer ends a failure, a failure never follows an answer.
CREATE TRIGGER answer_ends_failure BEFORE INSERT ON answers
BEGIN DELETE FROM failures WHERE key = NEW.key; END;

CREATE TRIGGER no_failure_after_answer BEFORE INSERT ON failures
WHEN EXISTS (SELECT 1 FROM answers WHERE key = NEW.key)
BEGIN SELECT RAISE(ABORT, 'this request has an answer'); END;

CREATE TABLE scores (
    key    TEXT PRIMARY KEY REFERENCES answers(key),
    metric TEXT NOT NULL,
    rule   TEXT NOT NULL CHECK (rule IN ('strip', 'keep', 'fail')),  -- sampling.reasoning
    value  REAL NOT NULL CHECK (value BETWEEN 0 AND 1),
    em     REAL NOT NULL CHECK (em BETWEEN 0 AND 1),
    label  TEXT NOT NULL,
    parts  TEXT NOT NULL DEFAULT '{}'  -- JSON: what the metric is made of
) STRICT, WITHOUT ROWID;

-- What analysis made of the scores, replaced as a whole by every analysis. `payload` is the row's
-- JSON as in summary.json; the columns beside it are what one filters by.
CREATE TABLE bin_stats (
    task TEXT NOT NULL, bin INTEGER NOT NULL, variant TEXT NOT NULL,
    policy TEXT NOT NULL, budget REAL NOT NULL, measure TEXT NOT NULL,
    n INTEGER NOT NULL, acc_mean REAL, payload TEXT NOT NULL
) STRICT;

CREATE TABLE verdicts (
    task TEXT NOT NULL, bin TEXT NOT NULL, variant TEXT NOT NULL,
    policy TEXT NOT NULL, budget REAL NOT NULL, measure TEXT NOT NULL,
    delta REAL, verdict TEXT, payload TEXT NOT NULL
) STRICT;

CREATE TABLE transitions (
    task TEXT NOT NULL, bin TEXT NOT NULL, policy TEXT NOT NULL, measure TEXT NOT NULL,
    b_safe REAL, b_broken REAL, payload TEXT NOT NULL
) STRICT;
