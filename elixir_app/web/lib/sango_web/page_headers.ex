defmodule SangoWeb.PageHeaders do
  @moduledoc "The headers of the operations page: what it may load, and that no other site may frame it."

  @behaviour Plug

  import Plug.Conn

  @policy "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

  @impl true
  def init(options), do: options

  @impl true
  def call(conn, _options) do
    conn
    |> put_resp_header("cache-control", "no-store")
    |> put_resp_header("content-security-policy", @policy)
    |> put_resp_header("referrer-policy", "no-referrer")
    |> put_resp_header("x-content-type-options", "nosniff")
  end
end
