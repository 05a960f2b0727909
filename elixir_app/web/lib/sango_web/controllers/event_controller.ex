defmodule SangoWeb.EventController do
  @moduledoc "`GET /v1/jobs/{id}/events`: Server-Sent Events."

  use SangoWeb, :controller

  alias SangoWeb.{Drain, Errors}

  # A line that says nothing, sent when there is nothing to say: it keeps proxies from hanging up and finds out
  # whether the client has.
  @silence 15_000

  @doc "The events of a job after `?after=` or `Last-Event-ID`, as they come."
  def index(conn, %{"id" => id}) do
    with {:ok, n} <- number(conn),
         {:ok, job} <- Sango.get(id) do
      # After this one answer an `EventSource` does not come back.
      if over?(job) and n >= job["last_event"], do: send_resp(conn, 204, ""), else: stream(conn, id, n)
    end
  end

  # A browser that reconnects repeats the address and adds how far it got.
  defp number(conn) do
    with {:ok, n} <- parameter(conn.query_params["after"]) do
      last = conn |> get_req_header("last-event-id") |> List.first()
      {:ok, whole(last) || n}
    end
  end

  defp parameter(nil), do: {:ok, 0}

  defp parameter(text) do
    case whole(text) do
      nil ->
        {:error, Errors.new("invalid_request", "`after` is the number of an event, not #{inspect(text)}")}

      n ->
        {:ok, n}
    end
  end

  defp whole(text) when is_binary(text) do
    case Integer.parse(text) do
      {n, ""} when n in 0..0xFFFF_FFFF_FFFF_FFFF -> n
      _ -> nil
    end
  end

  defp whole(_), do: nil
  defp over?(job), do: job["state"] in ["finished", "failed", "cancelled", "expired"]

  # The headers are all that is asked for, and a stream would not end with them.
  defp stream(%{private: %{sango_method: "HEAD"}} = conn, _id, _n),
    do: conn |> headers() |> send_resp(200, "")

  defp stream(conn, id, n) do
    with :ok <- Sango.subscribe(id, after: n) do
      Drain.subscribe()
      conn = conn |> headers() |> send_chunked(200) |> forward(id)
      Sango.unsubscribe(id)
      Drain.unsubscribe()
      flush(id)
      conn
    end
  end

  defp headers(conn) do
    conn
    |> put_resp_header("content-type", "text/event-stream")
    |> put_resp_header("cache-control", "no-cache")
  end

  defp forward(conn, id) do
    receive do
      {:sango, :event, ^id, event} ->
        send_chunk(conn, id, [
          "id: #{event["n"]}\nevent: #{event["event"]}\ndata: ",
          Jason.encode_to_iodata!(event),
          "\n\n"
        ])

      {:sango, :end, ^id} ->
        conn

      :drain ->
        conn
    after
      @silence -> send_chunk(conn, id, ":\n\n")
    end
  end

  defp send_chunk(conn, id, data) do
    case chunk(conn, data) do
      {:ok, conn} -> forward(conn, id)
      {:error, _gone} -> conn
    end
  end

  # The connection's process serves other requests after this one.
  defp flush(id) do
    receive do
      {:sango, _, ^id, _} -> flush(id)
      {:sango, :end, ^id} -> flush(id)
      :drain -> flush(id)
    after
      0 -> :ok
    end
  end
end
