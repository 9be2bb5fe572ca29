-- What a column may hold is said by its type. Postgres reads the text of a table's CHECK constraints anew for each
-- statement that writes to it, and that of a domain once a session (docs/decisions/0020-cheap-statements.md).
CREATE DOMAIN jsonb_object AS jsonb CHECK (jsonb_typeof(VALUE) = 'object');
CREATE DOMAIN version_number AS integer CHECK (VALUE >= 1);

-- Several projects may share a database. `project_id` says whose a row is. A process reads and writes the rows of its own
-- project alone.

-- Assistants: a graph with a configuration. Each graph has one of its own, made at the start, whose id follows from the
-- graph's name: several projects may have it.
CREATE TABLE assistants (
    project_id   text           NOT NULL,
    assistant_id uuid           NOT NULL,
    graph_id     text           NOT NULL,
    version      version_number NOT NULL DEFAULT 1,
    name         text           NOT NULL,
    description  text,
    config       jsonb_object   NOT NULL DEFAULT '{}',
    context      jsonb_object   NOT NULL DEFAULT '{}',
    metadata     jsonb_object   NOT NULL DEFAULT '{}',
    is_system    boolean        NOT NULL DEFAULT false,
    created_at   timestamptz    NOT NULL DEFAULT now(),
    updated_at   timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, assistant_id)
);
COMMENT ON COLUMN assistants.is_system IS 'the assistant that a graph has of its own: everybody may read it and run it';
CREATE INDEX assistants_graph_id ON assistants (project_id, graph_id, created_at DESC);
CREATE INDEX assistants_metadata ON assistants USING gin (metadata jsonb_path_ops);

-- Every version that an assistant has had, the current one included.
CREATE TABLE assistant_versions (
    project_id   text           NOT NULL,
    assistant_id uuid           NOT NULL,
    version      version_number NOT NULL,
    graph_id     text           NOT NULL,
    name         text           NOT NULL,
    description  text,
    config       jsonb_object   NOT NULL,
    context      jsonb_object   NOT NULL,
    metadata     jsonb_object   NOT NULL,
    created_at   timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, assistant_id, version),
    FOREIGN KEY (project_id, assistant_id) REFERENCES assistants ON DELETE CASCADE
);
