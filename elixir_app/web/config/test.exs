import Config

# The tests open the real engine on the shipped model, in a folder of their own.
config :engine, Sango,
  models_dir: Path.expand("../../../models/shapes", __DIR__),
  data_dir: Path.join(System.tmp_dir!(), "sango-web-test-#{System.pid()}")

config :web, SangoWeb.Endpoint,
  http: [ip: {127, 0, 0, 1}, port: 0],
  secret_key_base: String.duplicate("only-in-the-test", 4),
  server: true

config :web,
  max_body_bytes: 1_048_576,
  max_media_bytes: 3_000_000,
  allowed_origins: ["https://studio.example"]

config :logger, level: :warning
config :phoenix, :plug_init_mode, :runtime
config :phoenix_live_view, enable_expensive_runtime_checks: true
