defmodule SangoWeb.StudioChannel do
  @moduledoc """
  Topic `studio`: `submit` a job, `list` jobs, and be told of every job whose state or progress changes.

  A client that takes its messages more slowly than jobs change does not make this server keep them: once its socket
  has some waiting it is told no more until those are gone, and then shown the jobs as they are.
  """

  use Phoenix.Channel

  alias SangoWeb.{Errors, ListQuery}

  # Jobs that are shown at first.
  @newest 20
  # Messages that may wait for a slow client, and how long until it is looked at again, in ms.
  @waiting 32
  @pause 200

  @impl true
  def join("studio", _params, socket) do
    # Watching begins before the list is made, so that nothing falls between them.
    :ok = Sango.watch()

    case Sango.list(%{limit: @newest}) do
      {:ok, %{"jobs" => jobs}} -> {:ok, %{jobs: jobs, models: models()}, assign(socket, :behind?, false)}
      {:error, error} -> {:error, Sango.Error.body(error)}
    end
  end

  @impl true
  def handle_in("submit", request, socket) do
    submitted = Sango.submit(request, client: socket.assigns.client, detached: true)
    {:reply, reply(submitted), socket}
  end

  def handle_in("list", params, socket) do
    page = with {:ok, query} <- ListQuery.from_json(params), do: Sango.list(query)
    {:reply, reply(page), socket}
  end

  def handle_in(event, _payload, socket) do
    message = "`studio` does not take `#{event}`: it takes `submit` and `list`"
    {:reply, reply({:error, Errors.new("invalid_request", message)}), socket}
  end

  @impl true
  def handle_info({:sango, :job, job}, socket) do
    cond do
      socket.assigns.behind? -> {:noreply, socket}
      slow?(socket) -> {:noreply, fall_behind(socket)}
      true -> {:noreply, show([job], socket)}
    end
  end

  def handle_info({:sango, :lagged, _n}, %{assigns: %{behind?: false}} = socket) do
    {:noreply, fall_behind(socket)}
  end

  def handle_info(:catch_up, socket) do
    if slow?(socket) do
      {:noreply, fall_behind(socket)}
    else
      # From here on changes are told again; those since the list are in the mailbox.
      {:noreply, show(newest(), assign(socket, :behind?, false))}
    end
  end

  def handle_info(_message, socket), do: {:noreply, socket}

  defp slow?(socket) do
    case Process.info(socket.transport_pid, :message_queue_len) do
      {:message_queue_len, length} -> length > @waiting
      nil -> false
    end
  end

  defp fall_behind(socket) do
    Process.send_after(self(), :catch_up, @pause)
    assign(socket, :behind?, true)
  end

  defp show(jobs, socket) do
    Enum.each(jobs, &push(socket, "job", &1))
    socket
  end

  # The oldest first, as they would have been told.
  defp newest do
    case Sango.list() do
      {:ok, %{"jobs" => jobs}} -> Enum.reverse(jobs)
      {:error, _closed} -> []
    end
  end

  # A models folder that cannot be read is no reason not to show jobs; `readyz` and `submit` say so.
  defp models do
    case Sango.models() do
      {:ok, models} -> models
      {:error, _} -> []
    end
  end

  defp reply({:ok, response}), do: {:ok, response}
  defp reply({:error, error}), do: {:error, Sango.Error.body(error)}
end
