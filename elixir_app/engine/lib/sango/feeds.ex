defmodule Sango.Feeds do
  @moduledoc """
  Finds, or starts, the process that follows a job (`Sango.Feed`).
  """

  alias Sango.{Engine, Error, Feed, Supervisor}

  # A feed that has just ended answers no more; the next one does.
  @tries 10

  @doc false
  def child_spec({name, table}) do
    options = [
      name: Supervisor.via(name, :feeds),
      strategy: :one_for_one,
      max_restarts: 100,
      extra_arguments: [name, table]
    ]

    %{id: __MODULE__, start: {DynamicSupervisor, :start_link, [options]}, type: :supervisor}
  end

  @doc "Subscribes the calling process. See `Sango.subscribe/2`."
  @spec subscribe(atom, String.t(), non_neg_integer) :: :ok | {:error, Error.t()}
  def subscribe(name, id, n) do
    # An id that does not exist needs no process.
    with {:ok, _job} <- Engine.call(name, :get, [id]), do: subscribe(name, id, n, @tries)
  end

  @doc "Unsubscribes the calling process. What is in its mailbox stays there."
  @spec unsubscribe(atom, String.t()) :: :ok
  def unsubscribe(name, id) do
    GenServer.call(Supervisor.via(name, {:feed, id}), {:unsubscribe, self()})
  catch
    :exit, _gone -> :ok
  end

  defp subscribe(name, _id, _n, 0) do
    {:error,
     Error.shutting_down("nothing follows jobs under the name #{inspect(name)}: try again in a moment")}
  end

  defp subscribe(name, id, n, tries) do
    ensure_started(name, id)
    GenServer.call(Supervisor.via(name, {:feed, id}), {:subscribe, self(), n}, :infinity)
  catch
    :exit, _gone -> subscribe(name, id, n, tries - 1)
  end

  defp ensure_started(name, id) do
    if Registry.lookup(Sango.Registry, {name, {:feed, id}}) == [] do
      case DynamicSupervisor.start_child(Supervisor.via(name, :feeds), {Feed, id}) do
        {:ok, _pid} -> :ok
        {:error, {:already_started, _pid}} -> :ok
      end
    end
  end
end
