defmodule SangoWeb.SystemController do
  @moduledoc "`/v1/models`, health, metrics and the description of all this."

  use SangoWeb, :controller

  alias SangoWeb.{Errors, Metrics}

  @doc false
  def models(conn, _params) do
    with {:ok, models} <- Sango.models(), do: send_json(conn, 200, %{models: models})
  end

  @doc false
  def healthz(conn, _params), do: send_json(conn, 200, %{status: "ok"})

  @doc false
  def readyz(conn, _params) do
    with :ok <- Sango.ready(), do: send_json(conn, 200, %{status: "ready"})
  end

  @doc false
  def metrics(conn, _params) do
    with {:ok, text} <- Metrics.text() do
      conn
      |> put_resp_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
      |> send_resp(200, text)
    end
  end

  @doc false
  def openapi(conn, _params) do
    conn |> put_resp_header("content-type", "application/json") |> send_resp(200, Sango.openapi())
  end

  @doc false
  def method_not_allowed(%{assigns: %{methods: methods}} = conn, _params) do
    message = "#{conn.request_path} does not take #{conn.private.sango_method}: see /openapi.json"

    conn
    |> put_resp_header("allow", methods)
    |> send_error(Errors.new("method_not_allowed", message))
  end
end
