defmodule SangoWeb.StudioController do
  @moduledoc "Answers every path that is no endpoint: with a file of the studio page, or that there is none."

  use SangoWeb, :controller

  alias SangoWeb.{Errors, StudioPage}

  @doc false
  def show(%{method: "GET"} = conn, %{"path" => path}) do
    case StudioPage.fetch(if(path == [], do: "index.html", else: Enum.join(path, "/"))) do
      {:ok, file} ->
        serve(conn, file)

      :error ->
        {:error, Errors.new("not_found", "there is nothing at #{conn.request_path}: see /openapi.json")}
    end
  end

  def show(conn, _params) do
    {:error, Errors.new("not_found", "there is no endpoint #{conn.request_path}")}
  end

  defp serve(conn, file) do
    conn =
      conn
      |> put_resp_header("cache-control", file.cache_control)
      |> put_resp_header("x-content-type-options", "nosniff")
      # The page's own policy cannot say this one, which keeps it out of other sites' frames.
      |> put_resp_header("content-security-policy", "frame-ancestors 'none'")
      |> put_resp_header("referrer-policy", "no-referrer")
      |> put_resp_header("etag", file.etag)

    if get_req_header(conn, "if-none-match") == [file.etag] do
      send_resp(conn, 304, "")
    else
      conn |> put_resp_header("content-type", file.content_type) |> send_resp(200, file.bytes)
    end
  end
end
