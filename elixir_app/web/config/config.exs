import Config

config :phoenix, :json_library, Jason
# Pictures are large, and what people draw is theirs.
config :phoenix, :filter_parameters, ["image", "mask", "prompt", "negative_prompt"]

config :web, SangoWeb.Endpoint,
  adapter: Bandit.PhoenixAdapter,
  url: [host: "localhost"],
  render_errors: [formats: [json: SangoWeb.ErrorJSON], layout: false],
  pubsub_server: SangoWeb.PubSub,
  live_view: [signing_salt: "wNq3v8Tz"],
  http: [
    # Browsers send a long message in many frames.
    websocket_options: [max_fragmented_message_size: 56 * 1_048_576],
    thousand_island_options: [
      # How long a connection may go on when the server stops.
      shutdown_timeout: 5_000,
      # A client that takes nothing for so long is gone.
      transport_options: [send_timeout: 30_000, send_timeout_close: true]
    ]
  ]

config :logger, :default_formatter, format: "$time $metadata[$level] $message\n", metadata: [:request_id]

import_config "#{config_env()}.exs"
