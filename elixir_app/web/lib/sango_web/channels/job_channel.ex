defmodule SangoWeb.JobChannel do
  @moduledoc "Topic `job:<id>`: every event of a job after the join parameter `after`, and `cancel`."

  use Phoenix.Channel

  alias SangoWeb.Errors

  @last_number 0xFFFF_FFFF_FFFF_FFFF

  @impl true
  def join("job:" <> id, params, socket) do
    with {:ok, n} <- number(params),
         :ok <- Sango.subscribe(id, after: n),
         {:ok, job} <- Sango.get(id) do
      {:ok, %{job: job}, assign(socket, :job, id)}
    else
      {:error, error} -> {:error, Sango.Error.body(error)}
    end
  end

  @impl true
  def handle_in("cancel", _payload, socket) do
    case Sango.cancel(socket.assigns.job) do
      {:ok, job} -> {:reply, {:ok, job}, socket}
      {:error, error} -> {:reply, {:error, Sango.Error.body(error)}, socket}
    end
  end

  def handle_in(event, _payload, socket) do
    error =
      Errors.new("invalid_request", "`#{socket.topic}` does not take `#{event}`: it takes `cancel`")

    {:reply, {:error, Sango.Error.body(error)}, socket}
  end

  @impl true
  def handle_info({:sango, :event, _id, event}, socket) do
    push(socket, event["event"], event)
    {:noreply, socket}
  end

  # After the last event the topic stays joined and silent.
  def handle_info(_message, socket), do: {:noreply, socket}

  defp number(%{"after" => n}) when is_integer(n) and n in 0..@last_number, do: {:ok, n}
  defp number(%{"after" => nil}), do: {:ok, 0}

  defp number(%{"after" => other}) do
    {:error, Errors.new("invalid_request", "`after` is the number of an event, not #{Jason.encode!(other)}")}
  end

  defp number(_params), do: {:ok, 0}
end
