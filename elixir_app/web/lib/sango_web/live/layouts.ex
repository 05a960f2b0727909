defmodule SangoWeb.Layouts do
  @moduledoc "The frame of the operations page."

  use Phoenix.Component

  import Plug.CSRFProtection, only: [get_csrf_token: 0]

  @doc false
  def root(assigns) do
    ~H"""
    <!DOCTYPE html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <meta name="csrf-token" content={get_csrf_token()} />
        <.live_title>{assigns[:page_title] || "Sango operations"}</.live_title>
        <link rel="icon" href="/favicon.svg" type="image/svg+xml" />
        <link rel="stylesheet" href="/ops/assets/ops.css" />
        <script defer src="/ops/assets/phoenix.min.js">
        </script>
        <script defer src="/ops/assets/phoenix_live_view.min.js">
        </script>
        <script defer src="/ops/assets/ops.js">
        </script>
      </head>
      <body>
        {@inner_content}
      </body>
    </html>
    """
  end
end
