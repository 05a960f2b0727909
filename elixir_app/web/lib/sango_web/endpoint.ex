defmodule SangoWeb.Endpoint do
  @moduledoc """
  Where requests come in: first past `SangoWeb.Gate`, then to one of the sockets or to the router.
  """

  use Phoenix.Endpoint, otp_app: :web

  alias SangoWeb.{Errors, Gate, Handshake, Metrics}

  # Only the operations page has a session.
  @session [store: :cookie, key: "_sango_ops", signing_salt: "hJ2mE7ya", same_site: "Lax"]

  # The gate has checked the origin, for the sockets as for everything else.
  socket "/socket", SangoWeb.Socket,
    websocket: [
      check_origin: false,
      connect_info: [],
      serializer: [{SangoWeb.Serializer, "~> 2.0"}],
      # A client that sends nothing for so long, not even its heartbeat, is gone.
      timeout: 90_000,
      max_frame_size: Application.compile_env(:web, :max_body_bytes, 56 * 1_048_576)
    ],
    longpoll: false

  socket "/live", Phoenix.LiveView.Socket,
    websocket: [check_origin: false, connect_info: [session: @session]],
    longpoll: false

  plug Plug.Static,
    at: "/ops/assets",
    from: {:web, "priv/static/ops"},
    only: ["ops.css", "ops.js"]

  plug Plug.Static, at: "/ops/assets", from: {:phoenix, "priv/static"}, only: ["phoenix.min.js"]

  plug Plug.Static,
    at: "/ops/assets",
    from: {:phoenix_live_view, "priv/static"},
    only: ["phoenix_live_view.min.js"]

  if code_reloading? do
    plug Phoenix.CodeReloader
  end

  plug Plug.RequestId
  plug Plug.Telemetry, event_prefix: [:phoenix, :endpoint]
  plug Plug.Head
  plug :fetch_query_params
  plug Plug.Session, @session
  plug SangoWeb.Router

  @doc """
  The largest socket message, and request body as far as it is kept in memory, in bytes: two 20 MiB images in base64
  fit.
  """
  @spec max_body_bytes() :: pos_integer
  def max_body_bytes, do: Application.get_env(:web, :max_body_bytes, 56 * 1_048_576)

  @doc "The largest size of the `media` of one form, which go to disk as they come."
  @spec max_media_bytes() :: pos_integer
  def max_media_bytes, do: Application.get_env(:web, :max_media_bytes, 1_073_741_824)

  # Before the sockets, which come before the plugs.
  @impl Plug
  def call(conn, options) do
    # `Plug.Head` hides the method from the handlers, and a stream has to know it.
    conn = conn |> Metrics.count_answer() |> Plug.Conn.put_private(:sango_method, conn.method)

    with :ok <- Gate.check(conn, Gate.config()),
         {:ok, conn} <- Handshake.check(conn) do
      super(conn, options)
    else
      {:error, error} -> conn |> Errors.send_error(error) |> Plug.Conn.halt()
    end
  end
end
