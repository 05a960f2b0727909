import Config

config :web, SangoWeb.Endpoint,
  code_reloader: true,
  debug_errors: false,
  # Signs the sessions of a development machine only.
  secret_key_base: String.duplicate("development-only", 4)

config :phoenix, :stacktrace_depth, 20
config :phoenix, :plug_init_mode, :runtime
