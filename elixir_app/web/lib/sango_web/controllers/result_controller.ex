defmodule SangoWeb.ResultController do
  @moduledoc "Files of jobs, `GET /v1/jobs/{id}/result` and `GET /v1/jobs/{id}/media/{index}`: the bytes, with ranges."

  use SangoWeb, :controller

  alias SangoWeb.{Errors, Range}

  @doc false
  def show(conn, %{"id" => id, "stage" => stage}) do
    # A query such as `stage[]=` comes as a list.
    with {:ok, _job} <- Sango.get(id),
         {:ok, file} <- Sango.stage_result(id, if(is_binary(stage), do: stage, else: "")),
         do: serve(conn, file, "sango-#{id}-#{stage}")
  end

  def show(conn, %{"id" => id}) do
    with {:ok, file} <- Sango.result(id), do: serve(conn, file, "sango-#{id}")
  end

  @doc false
  def media(conn, %{"id" => id, "index" => index}) do
    with {:ok, _job} <- Sango.get(id),
         {:ok, index} <- number(index),
         {:ok, file} <- Sango.media(id, index),
         do: serve(conn, file, "sango-#{id}-#{index}")
  end

  defp number(text) do
    case Integer.parse(text) do
      {index, ""} when index >= 0 -> {:ok, index}
      _ -> {:error, Errors.new("not_found", "`#{text}` is not the number of a file: the first is 0")}
    end
  end

  # Somebody else has made what was uploaded: opened by itself it may do nothing but show.
  @policy "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"

  defp serve(conn, file, name) do
    with {:ok, size} <- size(file, name) do
      etag = ~s("#{file["sha256"]}")

      conn
      |> put_resp_header("etag", etag)
      # A job's files never change, but they can expire, and they are their owner's.
      |> put_resp_header("cache-control", "private, max-age=3600")
      |> put_resp_header("x-content-type-options", "nosniff")
      |> put_resp_header("content-security-policy", @policy)
      |> answer(file, name, size, etag)
    end
  end

  defp answer(conn, file, name, size, etag) do
    if get_req_header(conn, "if-none-match") == [etag] do
      send_resp(conn, 304, "")
    else
      conn =
        conn
        |> put_resp_header("content-type", file["content_type"])
        |> put_resp_header("content-disposition", disposition(conn, file, name))
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

  defp disposition(conn, file, name) do
    kind = if conn.query_params["download"] == "1", do: "attachment", else: "inline"
    extension = file["content_type"] |> String.split("/") |> List.last()
    ~s(#{kind}; filename="#{name}.#{extension}")
  end

  defp size(file, name) do
    case File.stat(file["path"]) do
      {:ok, %{size: size}} ->
        {:ok, size}

      {:error, :enoent} ->
        {:error, Errors.new("expired", "the file #{name} has just been removed")}

      {:error, reason} ->
        {:error, Errors.new("storage", "cannot read the file #{name}: #{:file.format_error(reason)}")}
    end
  end
end
