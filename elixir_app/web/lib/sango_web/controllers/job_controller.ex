defmodule SangoWeb.JobController do
  @moduledoc "`/v1/jobs` and `/v1/jobs/{id}`."

  use SangoWeb, :controller

  alias SangoWeb.{ListQuery, Upload}

  @doc "Lists jobs, newest first."
  def index(conn, _params) do
    with {:ok, query} <- ListQuery.from_params(conn.query_params), {:ok, page} <- Sango.list(query) do
      send_json(conn, 200, page)
    end
  end

  @doc "Submits a job. It goes on without the client that sent it."
  def create(conn, _params) do
    case Upload.read(conn) do
      {:ok, request, conn} -> submit(conn, request)
      {:error, error, conn} -> send_error(conn, error)
    end
  end

  defp submit(conn, request) do
    case Sango.submit_with_status(request, client: {:ip, conn.remote_ip}, detached: true) do
      {:ok, job, created?} ->
        answered? = not created? or job["state"] in ["finished", "failed", "cancelled", "expired"]

        conn
        |> put_resp_header("location", "/v1/jobs/#{job["id"]}")
        |> send_json(if(answered?, do: 200, else: 202), job)

      {:error, error} ->
        send_error(conn, error)
    end
  end

  @doc "A job."
  def show(conn, %{"id" => id}) do
    with {:ok, job} <- Sango.get(id), do: send_json(conn, 200, job)
  end

  @doc "Cancels a job."
  def delete(conn, %{"id" => id}) do
    with {:ok, job} <- Sango.cancel(id), do: send_json(conn, 200, job)
  end
end
