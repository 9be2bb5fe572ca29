/** The answers of the API. `make types` writes this from the OpenAPI document: change nothing here. */

export interface Assistant {
  assistant_id: string;
  graph_id: string;
  config: Record<string, unknown>;
  context: Record<string, unknown>;
  metadata: Record<string, unknown>;
  name: string;
  created_at: string;
  updated_at: string;
  version: number;
  description: string | null;
}

export interface AssistantVersion {
  assistant_id: string;
  version: number;
  graph_id: string;
  config: Record<string, unknown>;
  context: Record<string, unknown>;
  metadata: Record<string, unknown>;
  created_at: string;
  name: string;
  description: string | null;
}

export interface AuthInfo {
  kind: "none" | "api_key" | "jwt" | "custom";
}

export interface Cron {
  cron_id: string;
  assistant_id: string;
  thread_id: string | null;
  end_time: string | null;
  schedule: string;
  timezone: string | null;
  payload: Record<string, unknown>;
  next_run_date: string | null;
  metadata: Record<string, unknown>;
  on_run_completed: "delete" | "keep" | null;
  enabled: boolean;
  created_at: string;
  updated_at: string;
  user_id?: string | null;
}

export interface DatabaseInfo {
  pooler: "none" | "session" | "transaction";
  wake_ups: "listen" | "polling";
}

export interface Edge {
  source: string;
  target: string;
  data?: string;
  conditional?: boolean;
}

export interface GraphDrawing {
  nodes: Node[];
  edges: Edge[];
}

export interface GraphSchemas {
  input_schema: Record<string, unknown> | null;
  output_schema: Record<string, unknown> | null;
  state_schema: Record<string, unknown> | null;
  config_schema: Record<string, unknown> | null;
  context_schema: Record<string, unknown> | null;
  graph_id: string;
}

export interface Info {
  version: string;
  langgraph_py_version: string;
  flags: Record<string, boolean>;
  surfaces: string[];
  host: Record<string, string | null>;
  server: string;
  role: "all" | "api";
  auth: AuthInfo;
  row_level_security: boolean;
  database: DatabaseInfo;
  limits: Limits;
  load: Load;
}

export interface Interrupt {
  id: string;
  value: unknown;
}

export interface Item {
  namespace: string[];
  key: string;
  value: Record<string, unknown>;
  created_at: string;
  updated_at: string;
}

export interface Limits {
  run_slots: number;
  max_waiting: number;
  queue_timeout_s: number;
  query_timeout_s: number;
  run_timeout_s: number;
  body_bytes: number;
}

export interface Load {
  running: number;
  waiting: number;
}

export interface Me {
  identity: string | null;
  display_name: string | null;
  scopes: string[] | null;
  permissions: string[];
}

export interface Node {
  id: string;
  type?: string;
  data?: unknown;
  metadata?: Record<string, unknown>;
}

export interface OwnApiKey {
  key_id: string;
  prefix: string;
  name: string;
  scopes: string[];
  created_at: string;
  expires_at: string | null;
  last_used_at: string | null;
  revoked_at: string | null;
  is_current: boolean;
}

export interface Run {
  run_id: string;
  thread_id: string;
  assistant_id: string;
  created_at: string;
  updated_at: string;
  status: "pending" | "running" | "success" | "error" | "timeout" | "interrupted";
  metadata: Record<string, unknown>;
  kwargs: Record<string, unknown>;
  multitask_strategy: string;
}

export interface SelectedRunMatch {
  run_id?: string;
  thread_id?: string;
  assistant_id?: string;
  graph_id?: string;
  status?: "pending" | "running" | "success" | "error" | "timeout" | "interrupted";
  metadata?: Record<string, unknown>;
  multitask_strategy?: string;
  created_at?: string;
  updated_at?: string;
  started_at?: string | null;
  finished_at?: string | null;
  queue_wait_s?: number | null;
  duration_s?: number | null;
  attempt?: number;
  error?: Record<string, unknown> | null;
}

export interface SelectedThreadMatch {
  thread_id?: string;
  created_at?: string;
  updated_at?: string;
  state_updated_at?: string;
  metadata?: Record<string, unknown>;
  status?: string;
  config?: Record<string, unknown>;
  values?: unknown;
  interrupts?: Record<string, unknown>;
  error?: Record<string, unknown> | null;
  title?: string | null;
  extracted?: Record<string, unknown> | null;
}

export interface StateCheckpoint {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id?: string;
  checkpoint_map?: Record<string, unknown>;
}

export interface StateUpdateResult {
  checkpoint: StateCheckpoint;
  configurable: StateCheckpoint;
  checkpoint_id: string;
}

export interface Task {
  id: string;
  name: string;
  path: unknown[];
  error: string | null;
  interrupts: Interrupt[];
  checkpoint: StateCheckpoint | null;
  state: unknown;
  result: unknown;
}

export interface ThreadState {
  values?: unknown;
  next?: string[];
  tasks?: Task[];
  metadata?: Record<string, unknown> | null;
  created_at?: string | null;
  checkpoint?: StateCheckpoint | null;
  parent_checkpoint?: StateCheckpoint | null;
  interrupts?: Interrupt[];
  checkpoint_id?: string | null;
  parent_checkpoint_id?: string | null;
}

export interface ThreadTtl {
  strategy: "delete" | "keep_latest";
  ttl_minutes: number;
  expires_at: string;
}

export interface ThreadWithTtl {
  thread_id: string;
  created_at: string;
  updated_at: string;
  state_updated_at: string;
  metadata: Record<string, unknown>;
  status: string;
  config: Record<string, unknown>;
  values: unknown;
  interrupts: Record<string, unknown>;
  error: Record<string, unknown> | null;
  title: string | null;
  ttl?: ThreadTtl | null;
}

export interface WorkerProcess {
  worker_id: string;
  started_at: string;
  heartbeat_at: string;
  heartbeat_age_s: number;
  graph_ids: string[];
  run_slots: number | null;
  running: number;
}
