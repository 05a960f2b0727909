defmodule SangoWeb.OpsLiveTest do
  use ExUnit.Case

  import Phoenix.ConnTest
  import Phoenix.LiveViewTest
  import SangoWeb.Jobs

  @endpoint SangoWeb.Endpoint

  setup do
    # The server is for this machine, and so is the request.
    %{conn: %{build_conn() | host: "localhost"}}
  end

  defp eventually(view, true?, tries \\ 400) do
    cond do
      true?.(view) -> true
      tries == 0 -> flunk("it never came: " <> render(view))
      true -> Process.sleep(10) && eventually(view, true?, tries - 1)
    end
  end

  test "the page has its headers, and its files are there", %{conn: conn} do
    page = get(conn, "/ops")
    html = html_response(page, 200)
    assert [policy] = Plug.Conn.get_resp_header(page, "content-security-policy")
    assert policy =~ "default-src 'self'" and policy =~ "frame-ancestors 'none'"
    assert Plug.Conn.get_resp_header(page, "cache-control") == ["no-store"]

    files = for [_, path] <- Regex.scan(~r{(?:src|href)="(/ops/assets/[^"]+)"}, html), do: path
    assert length(files) == 4
    for path <- files, do: assert(response(get(conn, path), 200) != "")
  end

  test "it shows how things are", %{conn: conn} do
    %{"id" => id} = drawn()
    {:ok, view, _html} = live(conn, "/ops")
    assert has_element?(view, ".bar .state", "Ready")
    assert has_element?(view, "#job-#{id} .state", "finished")
    assert has_element?(view, "#job-#{id} img[src='/v1/jobs/#{id}/result']")
    assert has_element?(view, "#models strong", "amused")
    assert has_element?(view, "#machine dt", "Threads")
    assert view |> element("#machine dd", "MiB") |> has_element?() or render(view) =~ "MiB"
  end

  test "jobs come, wait, and are cancelled", %{conn: conn} do
    {:ok, view, _html} = live(conn, "/ops")
    %{"id" => running} = submit_long()
    eventually(view, &has_element?(&1, "#job-#{running} .state", "running"))
    %{"id" => waiting} = submit_long()
    eventually(view, &has_element?(&1, "#queue button[phx-value-id='#{waiting}']"))
    assert has_element?(view, "#job-#{waiting} .state", "queued")

    view |> element("#queue button[phx-value-id='#{waiting}']") |> render_click()
    eventually(view, &has_element?(&1, "#job-#{waiting} .state", "cancelled"))
    refute has_element?(view, "#queue button[phx-value-id='#{waiting}']")

    view |> element("#job-#{running} button") |> render_click()
    eventually(view, &has_element?(&1, "#job-#{running} .state", "cancelled"))
    refute has_element?(view, "#job-#{running} button")
  end

  test "models are loaded and unloaded", %{conn: conn} do
    {:ok, [%{"name" => name} | _]} = Sango.models()
    {:ok, %{"loaded" => true}} = Sango.load_model(name)
    {:ok, view, _html} = live(conn, "/ops")
    button = ~s(#models button[phx-value-model="#{name}"])
    view |> element(button, "Unload") |> render_click()
    eventually(view, &has_element?(&1, button, "Load"))
    assert {:ok, [%{"loaded" => false} | _]} = Sango.models()
    view |> element(button, "Load") |> render_click()
    eventually(view, &has_element?(&1, button, "Unload"))
    assert {:ok, [%{"loaded" => true} | _]} = Sango.models()
  end

  test "what cannot be done is told, and nothing a client sends ends the page", %{conn: conn} do
    {:ok, view, _html} = live(conn, "/ops")
    assert render_click(view, "cancel", %{"id" => "nonsense"}) =~ ~s(role="alert")
    refute render_click(view, "dismiss", %{}) =~ ~s(role="alert")
    render_click(view, "load", %{"model" => "none"})
    eventually(view, &has_element?(&1, ".problem", "none"))

    for {event, params} <- [
          {"dance", %{}},
          {"cancel", %{}},
          {"cancel", %{"id" => %{"a" => 1}}},
          {"load", %{"model" => [1]}}
        ] do
      render_click(view, event, params)
    end

    assert has_element?(view, "#models")
  end
end
