-- A rule for a single column is a domain, because it is cheaper. Postgres reads the CHECK constraints of a table again for
-- each statement that writes to it, but those of a domain once in a session (docs/decisions/0020-cheap-statements.md).
CREATE DOMAIN jsonb_object AS jsonb CHECK (jsonb_typeof(VALUE) = 'object');
CREATE DOMAIN version_number AS integer CHECK (VALUE >= 1);

-- Several projects may share a database. `project_id` is the project that owns a row. A process reads and writes only the
-- rows of its own project.

-- Assistants: graphs with a configuration. At the start, the server creates a system assistant for each graph. Its id is
-- derived from the graph's name, so several projects may have the same id.
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
    principal    text,
    created_at   timestamptz    NOT NULL DEFAULT now(),
    updated_at   timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, assistant_id)
);
COMMENT ON COLUMN assistants.is_system IS 'the server created it for its graph: every caller may read and run it';
COMMENT ON COLUMN assistants.principal IS
    'identity of its creator, for the cap of each principal; NULL if authentication was off; no API shows it';
CREATE INDEX assistants_graph_id ON assistants (project_id, graph_id, created_at DESC);
CREATE INDEX assistants_metadata ON assistants USING gin (metadata jsonb_path_ops);
CREATE INDEX assistants_principal ON assistants (project_id, principal) WHERE principal IS NOT NULL;

-- All versions of each assistant, with the current one.
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
