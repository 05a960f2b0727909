defmodule SangoWeb.ResultController do
  @moduledoc "`GET /v1/jobs/{id}/result`: the bytes, with ranges."

  use SangoWeb, :controller

  alias SangoWeb.{Errors, Range}

  @doc false
  def show(conn, %{"id" => id}) do
    with {:ok, file} <- Sango.result(id), {:ok, size} <- size(file, id) do
      etag = ~s("#{file["sha256"]}")

      conn
      |> put_resp_header("etag", etag)
      # A job's result never changes, but it can expire, and it is its owner's.
      |> put_resp_header("cache-control", "private, max-age=3600")
      |> put_resp_header("x-content-type-options", "nosniff")
      |> answer(file, id, size, etag)
    end
  end

  defp answer(conn, file, id, size, etag) do
    if get_req_header(conn, "if-none-match") == [etag] do
      send_resp(conn, 304, "")
    else
      conn =
        conn
        |> put_resp_header("content-type", file["content_type"])
        |> put_resp_header("content-disposition", disposition(conn, file, id))
        |> put_resp_header("accept-ranges", "bytes")

      case conn |> range(etag) |> Range.parse(size) do
        :whole ->
          send_file(conn, 200, file["path"])

        {first, last} ->
          conn
          |> put_resp_header("content-range", "bytes #{first}-#{last}/#{size}")
          |> send_file(206, file["path"], first, last - first + 1)

        :unsatisfiable ->
          conn |> put_resp_header("content-range", "bytes */#{size}") |> send_resp(416, "")
      end
    end
  end

  # A download that goes on must be of the same bytes, else it starts anew.
  defp range(conn, etag) do
    if get_req_header(conn, "if-range") in [[], [etag]],
      do: conn |> get_req_header("range") |> List.first()
  end

  defp disposition(conn, file, id) do
    kind = if conn.query_params["download"] == "1", do: "attachment", else: "inline"
    extension = file["content_type"] |> String.split("/") |> List.last()
    ~s(#{kind}; filename="sango-#{id}.#{extension}")
  end

  defp size(file, id) do
    case File.stat(file["path"]) do
      {:ok, %{size: size}} ->
        {:ok, size}

      {:error, :enoent} ->
        {:error, Errors.new("expired", "the result of job #{id} has just been removed")}

      {:error, reason} ->
        {:error, Errors.new("storage", "cannot read the result of job #{id}: #{:file.format_error(reason)}")}
    end
  end
end
